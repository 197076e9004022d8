from typing import Any

import pytest

from app.settings import Settings
from app.settings.doubts import doubts

ONE: dict[str, Any] = {"PC1": {"addr": "http://192.168.1.20:8081"}}


def of(**values: object) -> list[str]:
    return doubts(Settings.model_validate({"servers": ONE, **values}))


def only(**values: object) -> str:
    [doubt] = of(**values)
    return doubt


def test_the_settings_of_the_documents_raise_no_doubt() -> None:
    models = {"qwen3.*": ["PC1"], r"llama-\d+(-\d+)?": ["PC1"], "[a-z]*": ["PC1"], ".*": ["PC1"]}

    assert of(models=models, aliases={"gpt-4o": "qwen3:8b", "claude-.*": "qwen3:8b"}) == []


def test_an_address_without_a_port_leads_to_port_80() -> None:
    assert only(servers={"PC1": {"addr": "http://pc1/llama"}}) == (
        "BALANCER_SERVERS: PC1.addr has no port, so that port 80 is asked; for another: "
        '"addr": "http://pc1:8080/llama"'
    )


@pytest.mark.parametrize(
    "server",
    [
        {"addr": "https://models.example"},
        {"addr": "http://pc1", "model_port": 8081},
        {"addr": "dns+srv://_llama._tcp.example.internal"},
    ],
)
def test_an_address_that_needs_no_port_raises_no_doubt(server: dict[str, object]) -> None:
    assert of(servers={"PC1": server}) == []


def test_a_star_behind_a_letter_is_taken_for_a_shell_s() -> None:
    assert only(models={"qwen*": ["PC1"]}) == (
        'BALANCER_MODELS: "qwen*" is a regular expression, in which "*" repeats the "n" before it; '
        'for any text: "qwen.*"'
    )


@pytest.mark.parametrize("over", [".*", ".+", "(.*)", "qwen.*"])
def test_a_pattern_behind_one_that_matches_the_same_is_never_reached(over: str) -> None:
    assert only(models={over: ["PC1"], "qwen3:8b": ["PC1"]}) == (
        'BALANCER_MODELS: "qwen3:8b" is never reached, as the first pattern that matches decides, '
        f'and "{over}" stands before it; write "qwen3:8b" before "{over}"'
    )


def test_two_names_of_one_server_are_told() -> None:
    twice = {"PC1": {"addr": "http://pc1:8081"}, "PC2": {"addr": "http://pc1", "model_port": 8081}}

    assert "PC1 and PC2 are the same server, http://pc1:8081" in only(servers=twice)


def test_two_accounts_at_one_address_are_two_servers() -> None:
    accounts = {n: {"addr": "https://cloud.example", "api_key": f"sk-{n}"} for n in ("A", "B")}

    assert of(servers=accounts) == []


def test_an_alias_of_an_alias_is_not_followed() -> None:
    assert only(aliases={"a": "b", "b": "c"}) == (
        'BALANCER_ALIASES: "a" stands for "b", which is an alias itself, and is not followed any '
        'further; write "a": "c"'
    )


def test_aliases_that_stand_for_each_other_are_told() -> None:
    assert all("stand for each other" in doubt for doubt in of(aliases={"a": "b", "b": "a"}))
