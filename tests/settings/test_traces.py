"""Traces need an extra, and say so."""

import importlib.util

import pytest

from app.settings import Settings


def test_traces_are_off_unless_asked_for() -> None:
    assert not Settings(servers={}).traces


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(ValueError, match=r"pip install llama-balancer\[otel\]"):
        Settings(servers={}, traces=True)
    assert not Settings(servers={}, traces=False).traces
