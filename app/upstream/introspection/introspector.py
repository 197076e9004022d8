"""What a kind of model server is known by, and what it can be asked."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, NamedTuple

from app.routing.kind import Kind
from app.routing.observations import SelfReport
from app.upstream.introspection.pages import Get, Page, texts

MODEL: Final = "MODEL"
"""Stands for a model's name in an order."""


class ModelOrder(NamedTuple):
    """A request that has a server load or unload a model."""

    method: str
    path: str
    body: Mapping[str, object]


class Introspector:
    """Asks one server of a kind; each kind has a subclass, in a file of its own.

    Only ever by GET, and only for what wakes or loads no model.
    """

    kind: ClassVar[Kind]
    path: ClassVar[str]
    """What only servers of this kind have; `fits` tells whether the response is theirs."""
    load: ClassVar[ModelOrder | None] = None
    unload: ClassVar[ModelOrder | None] = None
    """What administrators may order, where the kind can."""

    def __init__(self, server: str) -> None:
        self.server = server

    @staticmethod
    def fits(page: Page) -> bool:
        """Whether a response to `path` is that of this kind."""
        raise NotImplementedError

    @staticmethod
    def loads(page: Page) -> bool:
        """Whether a response to any path says that a server of this kind loads its model."""
        return False

    async def report(self, get: Get, *, in_use: bool) -> SelfReport | None:
        """Ask the server how it is; None where it does not tell.

        `in_use` tells whether it works on something of ours.

        Raises:
            Silent: it did not respond, or not as its kind does.
        """
        raise NotImplementedError

    def by_state(
        self, found: list[dict[str, Any]], name: str, *, loaded: str, starting: str
    ) -> SelfReport:
        """Report models by what their `state` says."""
        states = [(x.get("state"), x) for x in found]
        return SelfReport(
            self.server,
            self.kind,
            loaded=_in_state(states, loaded, name),
            starting=_in_state(states, starting, name),
        )


def _in_state(
    states: Iterable[tuple[object, dict[str, Any]]], wanted: str, name: str
) -> frozenset[str]:
    return texts((x for state, x in states if state == wanted), name)
