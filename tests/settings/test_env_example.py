import re
from pathlib import Path

from app.settings import OTHERS, Settings, load
from app.settings.paths import ROUTABLE_PATHS
from tests.fakes.environment import Environment

TEXT = (Path(__file__).parents[2] / ".env.example").read_text(encoding="utf-8")
SETTING = re.compile(r"^#?(BALANCER_\w+)=.*$", re.MULTILINE)


def test_every_setting_stands_in_the_example_once_and_in_order() -> None:
    settings = [f"BALANCER_{name.upper()}" for name in Settings.model_fields]

    assert SETTING.findall(TEXT) == [*settings, *OTHERS]


def test_the_example_says_the_defaults(environment: Environment) -> None:
    everything = SETTING.sub(lambda match: match[0].lstrip("#"), TEXT)
    environment.dotenv(everything.replace("SECRETS_DIR=/run/secrets", "SECRETS_DIR=."))

    loaded = load()

    assert loaded == Settings(routed_paths=ROUTABLE_PATHS)
    set_to_nothing = {"fallback_server", "admin_key", "api_keys_file", "metrics_key"}
    set_to_nothing |= {"allowed_hosts", "cors_origins", "tls_cert", "tls_key"}
    set_to_nothing |= {"join", "join_address", "join_name", "join_token", "pin_models"}
    set_to_nothing |= {"state_dir", "valkey_url"}
    assert loaded.model_fields_set == set(Settings.model_fields) - set_to_nothing


def test_nothing_in_the_example_is_set_but_which_apis_are_routed() -> None:
    assert [line for line in TEXT.splitlines() if line and not line.startswith("#")] == [
        "BALANCER_ROUTED_PATHS=all"
    ]


def test_every_setting_is_explained_in_the_line_before() -> None:
    for name, field in Settings.model_fields.items():
        before = re.split(rf"\n#?BALANCER_{name.upper()}=", TEXT)[0]
        assert f"# {field.description}" in before.split("\n\n")[-1].splitlines()
