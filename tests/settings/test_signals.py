"""A server may be woken and put to sleep in ways that make sense together."""

import pytest

from app.settings import Settings, SettingsError, validated
from app.settings.server import ServerSettings

ADDRESS = "http://192.168.1.20"


def settings(**server: object) -> Settings:
    return validated({"servers": {"A": {"addr": ADDRESS, **server}}})


def server(**told: object) -> ServerSettings:
    return settings(**told).servers["A"]


@pytest.mark.parametrize("mac", ["52:54:00:AB:cd:56", "52-54-00-ab-cd-56", "525400abcd56"])
def test_a_network_card_is_written_as_people_do(mac: str) -> None:
    assert server(mac=mac).mac == "52:54:00:ab:cd:56"


def test_a_command_is_split_as_a_shell_would() -> None:
    wake = server(wake={"command": "ssh 'my host' wake"}).wake
    assert wake is not None
    assert wake.command == ("ssh", "my host", "wake")


@pytest.mark.parametrize(
    ("told", "mistake"),
    [
        ({"mac": "52:54"}, "is no address of a network card"),
        ({"wake": {}}, "must have either a `command` or a `url`"),
        ({"wake": {"command": "x", "url": "http://a"}}, "must have either"),
        ({"wake": {"command": "'x"}}, "is no command"),
        ({"wake": {"url": "ftp://a"}}, "is no address of http or https"),
        ({"wake": {"url": "http://a:99999"}}, "is no address of http or https"),
        ({"sleep": {"command": "x"}, "mac": "525400abcd56"}, "both `sleep` and `sleep_after`"),
        ({"sleep_after": 60, "mac": "525400abcd56"}, "both `sleep` and `sleep_after`"),
        ({"sleep": {"command": "x"}, "sleep_after": 60}, "would not wake again"),
        ({"addr": "dns+http://llama", "mac": "525400abcd56"}, "cannot be woken"),
    ],
)
def test_what_makes_no_sense_is_told(told: dict[str, object], mistake: str) -> None:
    with pytest.raises(SettingsError, match=mistake):
        settings(**told)
