"""What a model server tells of itself, whatever kind it is of."""

import importlib
import math
import pkgutil
from collections.abc import Callable
from typing import Final

import app.upstream.introspection as package
from app.routing.observations import SelfReport
from app.upstream.introspection.introspector import Introspector
from app.upstream.introspection.pages import Get, Page, Silent

AWAY: Final = (502, 503, 504)
"""What a proxy answers for a server that is away (RFC 9110 section 15.6)."""

LOOK_AGAIN: Final = 600.0
"""Seconds after which a server that seemed to be nothing particular is looked at again."""

AUTO, AGENT_ONLY, PLAIN = "auto", "llmhealth", "openai"
"""A kind that is to be found out; a server whose agent alone is asked; one that tells nothing."""


def _kinds() -> dict[str, type[Introspector]]:
    """Collect the kinds of the files in this folder."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    found = {x.kind.name: x for x in Introspector.__subclasses__()}
    return {PLAIN: found.pop(PLAIN), **found}  # another balancer has the paths of all others


KINDS: Final = _kinds()

NAMES: Final = (AUTO, AGENT_ONLY, *KINDS)
"""What the setting `health` of a server may say."""


class Introspection:
    """Follows one server. Of kind `auto`, it first finds out what the server is.

    `clock` tells seconds on a monotonic clock.
    """

    def __init__(self, server: str, kind: str, clock: Callable[[], float]) -> None:
        self._server = server
        self._auto = kind == AUTO
        self._named = None if self._auto else KINDS.get(kind, KINDS[PLAIN])
        self._clock = clock
        self._looked_at = -math.inf
        self._introspector: Introspector | None = None
        self.forget()

    def forget(self) -> None:
        """Note that the server was away: another may come back."""
        self._looked_at = -math.inf
        self._introspector = None if self._named is None else self._named(self._server)

    def loads(self, page: Page) -> SelfReport | None:
        """Return whether any response is that of a server that loads its model."""
        kind = _loading(page)
        if kind is None or self._named not in (None, kind):
            return None
        if not isinstance(self._introspector, kind):
            self._introspector = kind(self._server)
        return SelfReport(self._server, kind.kind, loading=True)

    async def report(self, ask: Get, *, in_use: bool = False) -> SelfReport | None:
        """Ask the server how it is; None where it does not tell.

        `in_use` tells whether it works on something of ours.

        Raises:
            Silent: it did not respond, or not as its kind does.
        """
        get = _own_words(ask)
        found = self._introspector
        if found is None or (self._auto and found.kind.name == PLAIN and self._is_long_ago()):
            self._introspector = found = (await _find_out(get))(self._server)
            self._looked_at = self._clock()
        return await found.report(get, in_use=in_use)

    def _is_long_ago(self) -> bool:
        return self._clock() - self._looked_at >= LOOK_AGAIN


def _loading(page: Page) -> type[Introspector] | None:
    return next((kind for kind in KINDS.values() if kind.loads(page)), None)


def _own_words(ask: Get) -> Get:
    """Take it for silence where a proxy speaks for a server that is away."""

    async def get(path: str) -> Page:
        page = await ask(path)
        if page[0] in AWAY and path != "/health" and _loading(page) is None:
            raise Silent
        return page

    return get


async def _find_out(get: Get) -> type[Introspector]:
    """Ask for what only servers of one kind have.

    Raises:
        Silent: none fitted, but not all were answered.
    """
    silent = False
    for kind in KINDS.values():
        try:
            page = await get(kind.path)
        except Silent:
            silent = True
            continue
        if kind.fits(page):
            return kind
        if (loading := _loading(page)) is not None:
            return loading
    if silent:
        raise Silent  # what it is may show in the response that did not come
    return KINDS[PLAIN]
