"""Where replicas share places: what is wrong with an address is said, and the address is not."""

import importlib.util
import sys

import pytest

from app.settings import Settings

URL = "redis://:opensesame@192.168.1.10:6379/0"


def test_an_address_with_a_password_is_taken_and_not_shown() -> None:
    settings = Settings(servers={}, valkey_url=URL)  # type: ignore[arg-type]

    assert settings.valkey_url is not None
    assert settings.valkey_url.get_secret_value() == URL
    assert "opensesame" not in repr(settings)


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="redis://"):
        Settings(servers={}, valkey_url="http://192.168.1.10:6379")  # type: ignore[arg-type]


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(ValueError, match=r"pip install llama-balancer\[valkey\]"):
        Settings(servers={}, valkey_url=URL)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has one process alone")
def test_several_workers_need_a_store() -> None:
    with pytest.raises(ValueError, match="needs BALANCER_VALKEY_URL"):
        Settings(servers={}, workers=2)

    assert Settings(servers={}, workers=2, valkey_url=URL).workers == 2  # type: ignore[arg-type]


def test_several_workers_need_as_many_ports() -> None:
    with pytest.raises(ValueError, match="which end at 65535"):
        Settings(servers={}, workers=2, valkey_url=URL, port=65534)  # type: ignore[arg-type]
