"""Which requests go where their model is."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from app.apis.endpoints import APIS, CHAT_PATH
from app.settings.mistakes import mistake
from app.settings.values import listed

ROUTABLE_PATHS = tuple(path for path, api in APIS.items() if api.routable)


def _all(value: object) -> object:
    if isinstance(value, str) and value.strip().lower() == "all":
        return ROUTABLE_PATHS
    return listed(value)


def _routable(path: str) -> str:
    if path not in ROUTABLE_PATHS:
        raise mistake(
            f'"{path}" cannot be routed by its model (there are {", ".join(ROUTABLE_PATHS)})',
            [CHAT_PATH],
        )
    return path


RoutedPaths = Annotated[
    tuple[Annotated[str, AfterValidator(_routable)], ...], BeforeValidator(_all)
]
