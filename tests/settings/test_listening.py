"""Who can reach the address that is listened on."""

import pytest

from app.settings import Settings
from app.settings.listening import PUBLISH, reached_at
from tests.fakes.environment import Environment

SERVERS = {"A": {"addr": "http://10.0.0.1"}}


@pytest.mark.parametrize(
    ("listening", "reached"),
    [
        ("127.0.0.1", None),
        ("127.9.9.9", None),
        ("::1", None),
        ("localhost", None),
        ("0.0.0.0", "0.0.0.0"),
        ("::", "::"),
        ("10.0.0.1", "10.0.0.1"),
        ("no-such-name.invalid", "no-such-name.invalid"),
    ],
)
def test_a_loopback_address_is_reached_from_here_alone(
    environment: Environment, listening: str, reached: str | None
) -> None:
    assert reached_at(listening) == reached


@pytest.mark.parametrize(
    ("published", "reached"),
    [
        ("127.0.0.1:18000", None),
        ("[::1]:18000", None),
        ("18000", "0.0.0.0"),
        ("0.0.0.0:18000", "0.0.0.0"),
        ("192.168.1.2:80", "192.168.1.2"),
    ],
)
def test_in_a_container_it_is_where_its_port_is_published_that_counts(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, published: str, reached: str | None
) -> None:
    monkeypatch.setenv(PUBLISH, published)

    assert reached_at("0.0.0.0") == reached


@pytest.mark.parametrize(
    ("more", "opened"),
    [
        ({}, "0.0.0.0"),
        ({"insecure": True}, None),
        ({"api_keys": {"alice": "sk-alice-0123456789"}}, None),
        ({"servers": {}}, None),
        ({"host": "127.0.0.1"}, None),
    ],
)
def test_what_is_open_is_told_unless_keys_or_the_operator_say_that_it_may_be(
    environment: Environment, more: dict[str, object], opened: str | None
) -> None:
    given = {"host": "0.0.0.0", "servers": SERVERS, **more}

    assert Settings.model_validate(given).open_at() == opened
