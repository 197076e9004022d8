import pytest

from app.settings import SettingsError, load
from app.settings.server import ServerSettings
from tests.fakes.environment import Environment

ADDR = "http://192.168.1.20"


def mistakes(environment: Environment, **variables: str) -> tuple[str, ...]:
    environment.set(variables)
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value).splitlines() == list(caught.value.mistakes)
    return caught.value.mistakes


def only(environment: Environment, **variables: str) -> str:
    (line,) = mistakes(environment, **variables)
    return line


def test_a_line_names_the_variable_what_is_wrong_and_what_is_right(
    environment: Environment,
) -> None:
    assert only(environment, BALANCER_PORT="abc") == (
        'BALANCER_PORT: must be a whole number, not "abc"; for example BALANCER_PORT=18000'
    )


def test_all_mistakes_are_told_at_once(environment: Environment) -> None:
    told = mistakes(
        environment,
        BALANCER_PORT="0",
        BALANCER_STICKY_TTL="-1",
        BALANCER_OVERFLOW="drop",
        BALANCER_REWRITE_GRAMMAR="maybe",
        BALANCER_SERVERS='{"PC1": {"addr": "192.168.1.20"}}',
        BALANCER_MODELS='{"a(": ["PC1"], "b": ["PC2"]}',
        BALANCER_FALLBACK_SERVER="PC3",
        BALANCER_PROT="1",
        BALANCER_TRUSTED_PROXIES="10.0.0.0/8,nonsense",
    )

    starts = sorted(line.split(" ")[0] for line in told)
    assert starts == [
        "BALANCER_FALLBACK_SERVER:",
        "BALANCER_MODELS:",
        "BALANCER_MODELS:",
        "BALANCER_OVERFLOW:",
        "BALANCER_PORT:",
        "BALANCER_PROT:",
        "BALANCER_REWRITE_GRAMMAR:",
        "BALANCER_SERVERS:",
        "BALANCER_STICKY_TTL:",
        "BALANCER_TRUSTED_PROXIES:",
    ]


def test_a_variable_is_named_as_it_was_written(environment: Environment) -> None:
    told = mistakes(
        environment,
        BALANCER_SERVERS__PC1__ADDR=ADDR,
        BALANCER_SERVERS__PC1__HEALTH_PORT="99999",
        BALANCER_SERVERS__PC2__REQUEST_MAX="1",
    )

    assert told[0].startswith("BALANCER_SERVERS__PC1__HEALTH_PORT: must be")
    assert told[0].endswith("; for example BALANCER_SERVERS__PC1__HEALTH_PORT=18000")
    assert told[1] == (
        f"BALANCER_SERVERS__PC2__ADDR: is missing; for example BALANCER_SERVERS__PC2__ADDR={ADDR}"
    )


def test_a_place_inside_json_is_named_by_its_way_there(environment: Environment) -> None:
    line = only(
        environment, BALANCER_SERVERS='{"PC1": {"addr": "http://h", "health-port": "many"}}'
    )

    assert line == (
        'BALANCER_SERVERS: PC1.health_port: must be a whole number, not "many"; '
        'for example "health_port": 18000'
    )


def test_a_nested_name_that_is_wrong_beside_json_is_named_itself(environment: Environment) -> None:
    line = only(
        environment,
        BALANCER_SERVERS='{"PC1": {"addr": "http://h"}}',
        BALANCER_SERVERS__PC1__REQUEST_MAX="0",
    )

    assert line.startswith("BALANCER_SERVERS__PC1__REQUEST_MAX: must be greater than or equal to 1")


def test_a_certificate_needs_its_key_and_must_be_one(environment: Environment) -> None:
    (environment.folder / "cert.pem").write_text("no certificate")

    assert only(environment, BALANCER_TLS_CERT="cert.pem").startswith("BALANCER_TLS_KEY: must be")
    for file, problem in (("cert.pem", "no certificate"), ("gone.pem", "cannot be read")):
        line = only(environment, BALANCER_TLS_CERT=file, BALANCER_TLS_KEY=file)
        assert line.startswith("BALANCER_TLS_CERT: ")
        assert problem in line


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BALANCER_PROT", "BALANCER_PORT"),
        ("BALANCER_FALLBACK", "BALANCER_FALLBACK_SERVER"),
        ("BALANCER_PUBLSH", "BALANCER_PUBLISH"),
        ("BALANCER_SERVERS__PC1__HEALT_PORT", "BALANCER_SERVERS__PC1__HEALTH_PORT"),
        ("BALANCER_PORT__X", "BALANCER_PORT"),
    ],
)
def test_an_unknown_variable_is_a_mistake_with_what_may_be_meant(
    environment: Environment, name: str, meant: str
) -> None:
    line = only(environment, BALANCER_SERVERS__PC1__ADDR=ADDR, **{name: "1"})

    assert line == f"{name}: is no setting; did you mean {meant}?"


@pytest.mark.parametrize("name", ["BALANCER_XYZ", "BALANCER__ENV_FILE", "BALANCER_"])
def test_a_variable_that_is_like_no_other_leads_to_the_list(
    environment: Environment, name: str
) -> None:
    line = only(environment, **{name: "1"})

    assert line == f"{name}: is no setting; all of them are in .env.example"


def test_an_unknown_key_of_a_server_is_a_mistake_with_what_may_be_meant(
    environment: Environment,
) -> None:
    told = mistakes(
        environment,
        BALANCER_SERVERS='{"PC1": {"addr": "http://h", "model-prot": 1, "colour": 2}}',
    )

    start = "BALANCER_SERVERS: PC1"
    assert told == (
        f"{start}.model_prot: is no setting; did you mean model_port?",
        f"{start}.colour: is no setting; there are {', '.join(ServerSettings.model_fields)}",
    )


def test_json_that_is_none_is_told_with_the_place(environment: Environment) -> None:
    line = only(environment, BALANCER_SERVERS="{'PC1': {}}")

    assert "is not valid JSON near" in line
    assert "'PC1'" in line
    assert """; for example BALANCER_SERVERS='{"PC1": {"addr":""" in line


@pytest.mark.parametrize("name", ["BALANCER_SERVERS", "BALANCER_MODELS"])
@pytest.mark.parametrize("value", ["[]", "5", "null", '"text"'])
def test_json_that_is_no_object_is_a_mistake(
    environment: Environment, name: str, value: str
) -> None:
    assert only(environment, **{name: value}).startswith(f"{name}: must be a JSON object")


@pytest.mark.parametrize(
    "value",
    [
        '{"PC1": {"addr": "http://a"}, "PC1": {"addr": "http://b"}}',
        '{"PC2": {"addr": "http://a", "addr": "http://b"}}',
        '{"PC2": {"addr": "http://a", "model-port": 1, "model_port": 2}}',
    ],
)
def test_a_key_that_is_there_twice_is_a_mistake(environment: Environment, value: str) -> None:
    assert "twice" in only(environment, BALANCER_SERVERS=value)


def test_a_server_with_two_ports_is_a_mistake(environment: Environment) -> None:
    line = only(environment, BALANCER_SERVERS='{"PC1": {"addr": "http://a:1", "model_port": 2}}')

    assert line.startswith(
        "BALANCER_SERVERS: PC1: has two ports, 1 in `addr` and 2 in `model_port`"
    )


def test_a_variable_that_is_nearly_a_setting_is_told_with_an_example(
    environment: Environment,
) -> None:
    assert only(environment, BALANCER_API_KEY="sk-1") == (
        "BALANCER_API_KEY: is no setting; did you mean BALANCER_API_KEYS? For example "
        """BALANCER_API_KEYS='{"alice": {"key": "sha256:…", "models": ["qwen3.*"]}}'"""
    )


def test_a_model_pattern_that_is_wrong_is_named(environment: Environment) -> None:
    told = mistakes(
        environment,
        BALANCER_SERVERS__PC1__ADDR=ADDR,
        BALANCER_MODELS='{"a(": ["PC1"], "(b+)+": ["PC1"], "c": [], "*llama*": "PC1", "d": 5}',
    )

    assert told[0].startswith('BALANCER_MODELS: "a(": is no regular expression: missing )')
    assert told[1].startswith('BALANCER_MODELS: "(b+)+": can take millions of steps')
    assert told[2].startswith("BALANCER_MODELS: c: must name at least one server")
    assert told[3].startswith('BALANCER_MODELS: "*llama*": is no regular expression')
    assert told[3].endswith('; for example ".*llama.*"')
    assert told[4].startswith("BALANCER_MODELS: d: must be a list, not 5")


def test_an_alias_that_is_no_pattern_is_named(environment: Environment) -> None:
    told = only(environment, BALANCER_ALIASES='{"claude-(": "qwen3-coder"}')

    assert told.startswith('BALANCER_ALIASES: "claude-(": is no regular expression')


def test_a_pattern_with_an_unknown_server_is_named_with_the_servers_there_are(
    environment: Environment,
) -> None:
    line = only(
        environment,
        BALANCER_SERVERS__PC1__ADDR=ADDR,
        BALANCER_MODELS='{"qwen.*": ["PC1", "PC9"]}',
    )

    assert line == (
        'BALANCER_MODELS: "qwen.*": names an unknown server "PC9" (there are PC1); '
        'for example "qwen.*": ["PC1"]'
    )


def test_a_fallback_that_is_no_server_is_a_mistake(environment: Environment) -> None:
    line = only(environment, BALANCER_SERVERS__PC1__ADDR=ADDR, BALANCER_FALLBACK_SERVER="pc1")

    assert line == (
        'BALANCER_FALLBACK_SERVER: names an unknown server "pc1" (there are PC1); '
        "for example BALANCER_FALLBACK_SERVER=PC1"
    )


def test_servers_that_cannot_be_read_make_no_further_mistakes_of_names(
    environment: Environment,
) -> None:
    line = only(
        environment,
        BALANCER_SERVERS="{",
        BALANCER_MODELS='{"a": ["PC1"]}',
        BALANCER_FALLBACK_SERVER="PC1",
    )

    assert line.startswith("BALANCER_SERVERS: is not valid JSON")


@pytest.mark.parametrize(
    ("addr", "right"),
    [
        ("192.168.1.20:8081", "http://192.168.1.20:8081"),
        ("ftp://pc1", "http://pc1"),
        ("http://pc1/v1", "http://pc1"),
        ("https://pc1:8443/?x=1", "https://pc1:8443"),
        ("http://name:word@pc1", "http://pc1"),
        ("http://", ADDR),
        ("http://pc1:99999", ADDR),
        ("http://[fd00::1", ADDR),
        ("http://pc1:0", "http://pc1:8081"),
    ],
)
def test_an_address_that_is_wrong_gets_an_example_that_is_right(
    environment: Environment, addr: str, right: str
) -> None:
    line = only(environment, BALANCER_SERVERS__PC1__ADDR=addr)

    assert line.startswith("BALANCER_SERVERS__PC1__ADDR: ")
    assert line.endswith(f"; for example BALANCER_SERVERS__PC1__ADDR={right}")
    environment.set(BALANCER_SERVERS__PC1__ADDR=right)
    assert load().servers["PC1"].addr == right


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "80.5"),
        ("QUEUE_MAX", "-1"),
        ("QUEUE_TIMEOUT", "0"),
        ("STICKY_TTL", "inf"),
        ("CONNECT_TIMEOUT", "nan"),
        ("IDLE_TIMEOUT", "five"),
        ("WINDOW_SECONDS", "0"),
        ("PROBE_INTERVAL", "0"),
        ("GPU_BUSY_PERCENT", "101"),
        ("MAX_BODY_BYTES", "0"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("USERNAME_PATTERN", "no group"),
        ("USERNAME_PATTERN", "("),
        ("USERNAME_PATTERN", ".*name (.*)"),
        ("TRUSTED_PROXIES", "10.0.0.5/8"),
        ("TRUSTED_PROXIES", "[1]"),
    ],
)
def test_the_example_of_every_mistake_loads(
    environment: Environment, name: str, value: str
) -> None:
    variable = f"BALANCER_{name}"
    line = only(environment, **{variable: value})
    start, _, example = line.partition(f"; for example {variable}=")
    assert start.startswith(f"{variable}: ")

    environment.set({variable: example})

    load()


def test_a_key_that_is_too_short_is_not_told(environment: Environment) -> None:
    environment.set(BALANCER_ADMIN_KEY="hunter2")

    with pytest.raises(SettingsError) as told:
        load()

    assert "BALANCER_ADMIN_KEY: must have at least 8 characters; for example" in str(told.value)
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    "server",
    [
        '{"addr": "http://h", "api_key": "sk-canary", }',
        '{"addr": "http://h", "headers": {"x-tenant": "sk-canary" "b"}}',
        '{"addr": "http://h", "api_key": "sk-canary\\u00e9"}',
        '{"addr": "http://h", "headers": {"x-tenant": "sk-canary\\n"}}',
        '{"addr": "http://h", "api_key": "sk-canary", "api_key_file": "/nowhere"}',
        '{"addr": "http://h", "headers": {"content-length": "sk-canary"}}',
        '{"addr": "http://h", "headers": "sk-canary"}',
        '{"addr": "http://h", "auth": "digest", "api-key": "sk-canary", "headers": ["a"]}',
    ],
)
def test_no_mistake_tells_a_server_s_key(environment: Environment, server: str) -> None:
    told = mistakes(environment, BALANCER_SERVERS=f'{{"PC1": {server}}}')
    assert told
    assert all("canary" not in line for line in told)


@pytest.mark.parametrize("file", ["ca_file", "client_cert", "api_key_file"])
def test_a_server_s_file_that_cannot_be_read_is_told(environment: Environment, file: str) -> None:
    (line,) = mistakes(
        environment, BALANCER_SERVERS=f'{{"PC1": {{"addr": "http://h", "{file}": "/nowhere"}}}}'
    )
    assert "PC1" in line
    assert "cannot be read" in line
