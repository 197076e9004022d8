import pytest
from pydantic import ValidationError

from app.routing.fleet import Server
from app.settings import Settings

BASE = "http://192.168.1.20"


def server(**values: object) -> Server:
    settings = Settings.model_validate({"servers": {"PC1": {"addr": BASE, **values}}})
    return settings.fleet().servers["PC1"]


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_default_is_a_value_that_could_be_set() -> None:
    defaults = Settings().model_dump(exclude_none=True)

    assert Settings.model_validate(defaults) == Settings()


def test_settings_never_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_a_server_has_a_model_address_and_a_health_address() -> None:
    assert server(health_port=18000, model_port=8081, request_max=2) == Server(
        "PC1", f"{BASE}:8081", f"{BASE}:18000", 2
    )


def test_without_a_health_port_there_is_no_health_address() -> None:
    assert server(model_port=8081).health_base is None


def test_without_a_model_port_the_address_stands_as_it_is() -> None:
    assert server().model_base == BASE
    assert server(addr="https://models.example").model_base == "https://models.example"


def test_a_port_in_the_address_is_the_model_port() -> None:
    found = server(addr=f"{BASE}:9000", health_port=18000)

    assert (found.model_base, found.health_base) == (f"{BASE}:9000", f"{BASE}:18000")


def test_a_port_may_stand_in_both_places() -> None:
    assert server(addr=f"{BASE}:9000", model_port=9000).model_base == f"{BASE}:9000"


def test_an_address_alone_is_a_server() -> None:
    settings = Settings.model_validate({"servers": '{"PC1": "http://192.168.1.20:8081"}'})

    assert settings.fleet().servers["PC1"] == server(model_port=8081)


def test_a_trailing_slash_is_left_out() -> None:
    assert server(addr=f"{BASE}/").model_base == BASE


def test_an_ipv6_address_stays_in_brackets() -> None:
    found = server(addr="http://[fd00::1]:9000", health_port=18000)

    assert (found.model_base, found.health_base) == (
        "http://[fd00::1]:9000",
        "http://[fd00::1]:18000",
    )


@pytest.mark.parametrize("key", ["health-port", "health_port", "Health-Port", "HEALTH_PORT"])
def test_keys_of_a_server_may_have_hyphens_and_capitals(key: str) -> None:
    assert server(**{key: 18000}).health_base == f"{BASE}:18000"


def test_the_fallback_is_the_first_server_unless_one_is_named() -> None:
    servers = {"PC1": {"addr": "http://a"}, "PC2": {"addr": "http://b"}}

    assert Settings.model_validate({"servers": servers}).fleet().fallback == "PC1"
    named = Settings.model_validate({"servers": servers, "fallback_server": "PC2"})
    assert named.fleet().fallback == "PC2"


def test_a_pattern_names_its_servers_in_order() -> None:
    settings = Settings.model_validate(
        {
            "servers": {"PC1": {"addr": "http://a"}, "PC2": {"addr": "http://b"}},
            "models": {"qwen.*": ["PC2", "PC1"], "llama.*": "PC1, PC2"},
        }
    )

    assert settings.fleet().candidates("qwen3") == ("PC2", "PC1")
    assert settings.fleet().candidates("llama3") == ("PC1", "PC2")


@pytest.mark.parametrize(
    "value", ["10.0.0.1,fd00::/8", " 10.0.0.1 , fd00::/8 ", '["10.0.0.1", "fd00::/8"]']
)
def test_trusted_proxies_are_a_list_with_commas_or_json(value: str) -> None:
    settings = Settings.model_validate({"trusted_proxies": value})

    assert settings.trusted_proxies == ("10.0.0.1/32", "fd00::/8")


def test_no_proxy_at_all_can_be_trusted() -> None:
    assert Settings.model_validate({"trusted_proxies": "[]"}).trusted_proxies == ()


def test_capitals_do_not_matter_in_a_choice() -> None:
    settings = Settings.model_validate({"log_level": "INFO", "overflow": "First"})

    assert (settings.log_level, settings.overflow) == ("info", "first")


def test_unknown_servers_are_found_without_the_environment_too() -> None:
    with pytest.raises(ValidationError, match="unknown server"):
        Settings.model_validate({"models": {"a": ["PC1"]}})
