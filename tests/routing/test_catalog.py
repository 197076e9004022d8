import pytest

from app.routing.balancer import Balancer
from app.routing.catalog import offered
from app.routing.fleet import Fleet, Server
from app.routing.observations import ModelsSeen
from tests.fakes.clock import Clock


@pytest.mark.parametrize(
    ("lists", "models"),
    [
        ([["b", "a"], ["a", "c"]], ["a", "b", "c"]),
        ([["m", "m-2", "m-3"], ["m"]], ["m"]),
        ([["m", "m-2"], ["m-3"]], ["m", "m-3"]),
        ([["phi"], ["phi-4"]], ["phi", "phi-4"]),
        ([["m", "m-2"], ["m-2"]], ["m", "m-2"]),
        ([["gemma", "gemma-3"]], ["gemma", "gemma-3"]),
        ([["m", "m-1"]], ["m", "m-1"]),
        ([["m-2"]], ["m-2"]),
        ([None, []], []),
    ],
)
def test_the_servers_models_are_merged_without_further_instances(
    lists: list[list[str] | None], models: list[str]
) -> None:
    servers = [Server(f"S{n}", f"http://s{n}") for n in range(len(lists))]
    b = Balancer(Fleet.of(servers), clock=Clock())
    for server, names in zip(servers, lists, strict=True):
        b.observe(ModelsSeen(server.name, names))

    assert offered(b.backends()) == models


def test_an_alias_is_listed_while_its_model_is() -> None:
    b = Balancer(Fleet.of([Server("A", "http://a")]), clock=Clock())
    b.observe(ModelsSeen("A", ["m"]))

    assert offered(b.backends(), {"gpt-4o": ("m-high", "m"), "other": ("n",)}) == ["gpt-4o", "m"]


def test_an_alias_of_a_name_without_a_tag_is_listed_where_ollama_has_the_model() -> None:
    b = Balancer(Fleet.of([Server("A", "http://a")]), clock=Clock())
    b.observe(ModelsSeen("A", ["m:latest"]))

    assert offered(b.backends(), {"gpt-4o": ("m",)}) == ["gpt-4o", "m:latest"]
