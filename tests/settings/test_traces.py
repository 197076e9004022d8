"""Traces need an extra, and say so."""

import importlib.util
from collections.abc import Callable

import pytest

from app.settings import Settings


def test_traces_are_off_unless_asked_for() -> None:
    assert not Settings(servers={}).traces


def lacks(module: str) -> None:
    raise ModuleNotFoundError(module)


@pytest.mark.parametrize("find", [lambda _: None, lacks])
def test_without_the_extra_it_is_named(
    find: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", find)

    with pytest.raises(ValueError, match=r"pip install llama-balancer\[otel\]"):
        Settings(servers={}, traces=True)
    assert not Settings(servers={}, traces=False).traces
