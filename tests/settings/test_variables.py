import json
import os
from pathlib import Path

import pytest

from app.settings import Settings, SettingsError, Sources, load
from tests.fakes.environment import Environment

SERVERS = '{"PC1": {"addr": "http://192.168.1.20", "model_port": 8081}}'


def test_without_variables_the_defaults_hold(environment: Environment) -> None:
    assert load() == Settings()


def test_a_value_comes_from_the_environment(environment: Environment) -> None:
    environment.set(BALANCER_PORT="19000")

    assert load().port == 19000


def test_a_setting_is_known_by_its_old_name_too(environment: Environment) -> None:
    environment.dotenv("BALANCER_MODELS_TTL=3\n")
    assert load().models_interval == 3

    environment.set(BALANCER_MODELS_INTERVAL="4")

    assert load().models_interval == 4


def test_a_value_comes_from_the_env_file(environment: Environment) -> None:
    environment.dotenv("# comment\nexport BALANCER_PORT=19000\nOTHER=1\n")

    assert load().port == 19000


def test_a_value_comes_from_a_secret_whatever_the_case_of_its_name(
    environment: Environment,
) -> None:
    environment.secret("balancer_port", "19000\n")
    environment.secret("other_password", "not ours")

    assert load().port == 19000


def test_the_folder_of_secrets_can_be_chosen(environment: Environment) -> None:
    folder = environment.folder / "mine"
    folder.mkdir()
    (folder / "BALANCER_SERVERS__PC1__ADDR").write_text("http://192.168.1.20")
    environment.set(BALANCER_SECRETS_DIR=str(folder))

    assert list(load().servers) == ["PC1"]


def test_a_chosen_folder_of_secrets_must_exist(environment: Environment) -> None:
    environment.set(BALANCER_SECRETS_DIR="missing")

    with pytest.raises(SettingsError, match="BALANCER_SECRETS_DIR: missing is no folder"):
        load()


def test_the_environment_goes_before_the_env_file_and_that_before_the_secrets(
    environment: Environment,
) -> None:
    environment.secret("BALANCER_PORT", "1")
    environment.secret("BALANCER_QUEUE_MAX", "1")
    environment.secret("BALANCER_STICKY_TTL", "1")
    environment.dotenv("BALANCER_PORT=2\nBALANCER_QUEUE_MAX=2\n")
    environment.set(BALANCER_PORT="3")

    settings = load()

    assert (settings.port, settings.queue_max, settings.sticky_ttl) == (3, 2, 1)


def test_an_empty_variable_is_not_set(environment: Environment) -> None:
    environment.set(BALANCER_FALLBACK_SERVER="", BALANCER_SERVERS=" ", BALANCER_PORT="")
    environment.dotenv("BALANCER_PORT=19000\n")

    assert load() == Settings(port=19000)


def test_capitals_do_not_matter_in_a_setting_s_name(environment: Environment) -> None:
    environment.set(balancer_port="19000")

    assert load().port == 19000


def test_servers_are_written_as_json(environment: Environment) -> None:
    environment.set(BALANCER_SERVERS=SERVERS)

    assert load().servers["PC1"].model_port == 8081


@pytest.mark.skipif(os.name == "nt", reason="Windows knows variables in upper case only")
def test_servers_are_written_by_nested_names_and_keep_their_case(environment: Environment) -> None:
    environment.set(
        BALANCER_SERVERS__PC1__ADDR="http://192.168.1.20",
        BALANCER_SERVERS__PC1__HEALTH_PORT="18000",
        BALANCER_SERVERS__gpuBox__ADDR="http://192.168.1.21",
    )

    servers = load().servers

    assert sorted(servers) == ["PC1", "gpuBox"]
    assert servers["PC1"].health_port == 18000


def test_a_server_s_name_may_hold_the_delimiter(environment: Environment) -> None:
    environment.set(BALANCER_SERVERS__MY__PC__ADDR="http://192.168.1.20")

    assert list(load().servers) == ["MY__PC"]


def test_one_server_is_written_as_json(environment: Environment) -> None:
    environment.set(BALANCER_SERVERS__PC1='{"addr": "http://192.168.1.20", "request-max": 2}')

    assert load().servers["PC1"].request_max == 2


def test_nested_names_add_to_json_and_win_over_it(environment: Environment) -> None:
    environment.dotenv(
        'BALANCER_SERVERS=\'{"PC1": {"addr": "http://192.168.1.20", "request-max": 1}}\'\n'
    )
    environment.set(
        BALANCER_SERVERS__PC1__REQUEST_MAX="4",
        BALANCER_SERVERS__PC1__HEALTH_PORT="18000",
        BALANCER_SERVERS__PC2__ADDR="http://192.168.1.21",
    )

    servers = load().servers

    assert list(servers) == ["PC1", "PC2"]
    assert (servers["PC1"].request_max, servers["PC1"].health_port) == (4, 18000)


def test_a_nested_name_in_upper_case_finds_the_server_that_json_names(
    environment: Environment,
) -> None:
    environment.set(
        BALANCER_SERVERS='{"pc1": {"addr": "http://192.168.1.20"}}',
        BALANCER_SERVERS__PC1__REQUEST_MAX="4",
    )

    assert load().servers["pc1"].request_max == 4


def test_servers_and_patterns_keep_their_order(environment: Environment) -> None:
    names = ["z", "a", "m", "b"]
    servers = {name: {"addr": f"http://{name}"} for name in names}
    environment.set(
        BALANCER_SERVERS=json.dumps(servers),
        BALANCER_MODELS=json.dumps({f"{name}.*": [name] for name in names}),
    )

    settings = load()

    assert list(settings.servers) == names
    assert [pattern.regex.pattern for pattern in settings.fleet().patterns] == [
        f"{name}.*" for name in names
    ]


def test_single_quotes_in_the_env_file_are_literal_as_in_a_shell(environment: Environment) -> None:
    environment.dotenv(
        f"BALANCER_SERVERS='{SERVERS}'\n"
        r"""BALANCER_MODELS='{"model(-\\d+)?": ["PC1"]}'  # whole numbers""" + "\n"
    )

    assert list(load().models) == [r"model(-\d+)?"]


def test_double_quotes_in_the_env_file_know_escapes(environment: Environment) -> None:
    environment.dotenv(r'BALANCER_SERVERS="{\"PC1\": {\"addr\": \"http://h\"}}"')

    assert list(load().servers) == ["PC1"]


def test_a_line_of_the_env_file_that_makes_no_sense_is_a_mistake(environment: Environment) -> None:
    environment.dotenv("BALANCER_HOST='never closed\nBALANCER_PORT=1\n")

    with pytest.raises(SettingsError, match=r"\.env: cannot read .*never closed"):
        load()


def test_an_env_file_that_is_no_text_is_a_mistake(environment: Environment) -> None:
    Path(".env").write_bytes(b"\xff\xfe\xfa")

    with pytest.raises(SettingsError, match=r"\.env: cannot be read"):
        load()


@pytest.mark.parametrize("name", ["BALANCER_PUBLISH", "balancer_publish"])
def test_the_variables_of_the_bundle_are_no_mistake(environment: Environment, name: str) -> None:
    environment.set({name: "127.0.0.1:18000"})

    assert load() == Settings()


def test_the_constructor_reads_no_environment(environment: Environment) -> None:
    environment.set(BALANCER_PORT="19000")

    assert Settings().port == 18000


def test_what_is_written_otherwise_later_holds_when_it_is_read_again(
    environment: Environment,
) -> None:
    environment.dotenv("BALANCER_PORT=2\n")
    sources = Sources()
    assert load(sources=sources).port == 2

    environment.dotenv("BALANCER_PORT=3\n")

    assert load(sources=sources).port == 3


def test_a_variable_that_only_passes_the_env_file_on_holds_as_that_says_later(
    environment: Environment,
) -> None:
    environment.dotenv("BALANCER_PORT=2\nBALANCER_QUEUE_MAX='5'\nBALANCER_STICKY_TTL=7\n")
    environment.set(BALANCER_PORT="2", BALANCER_QUEUE_MAX="5", BALANCER_STICKY_TTL="8")
    sources = Sources()

    environment.dotenv("BALANCER_PORT=3\nBALANCER_STICKY_TTL=9\n")
    settings = load(sources=sources)

    assert settings.port == 3
    assert settings.queue_max == Settings().queue_max
    assert settings.sticky_ttl == 8


def test_an_env_file_that_only_compose_may_read_is_left_to_it(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.dotenv("BALANCER_PORT=2\nBALANCER_QUEUE_MAX=5\n")
    environment.set(BALANCER_PORT="3")
    monkeypatch.setattr(os, "access", lambda *_: False)

    settings = load()

    assert (settings.port, settings.queue_max) == (3, Settings().queue_max)
