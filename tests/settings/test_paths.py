import pytest

from app.apis.endpoints import CHAT_PATH
from app.settings import SettingsError, load
from app.settings.paths import ROUTABLE_PATHS
from tests.fakes.environment import Environment


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("all", ROUTABLE_PATHS),
        ("/v1/embeddings, /v1/messages", ("/v1/embeddings", "/v1/messages")),
        ('["/api/chat"]', ("/api/chat",)),
    ],
)
def test_paths_are_listed_or_all(
    environment: Environment, written: str, meant: tuple[str, ...]
) -> None:
    environment.set(BALANCER_ROUTED_PATHS=written)

    assert load().routed_paths == meant


def test_a_path_that_cannot_be_routed_is_a_mistake_with_those_that_can(
    environment: Environment,
) -> None:
    environment.set(BALANCER_ROUTED_PATHS="/v1/chat")

    with pytest.raises(SettingsError) as told:
        load()

    assert '"/v1/chat" cannot be routed by its model' in str(told.value)
    assert CHAT_PATH in str(told.value)
