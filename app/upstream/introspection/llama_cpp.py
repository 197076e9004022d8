"""llama.cpp's server: https://github.com/ggml-org/llama.cpp/tree/master/tools/server."""

import re
from dataclasses import replace
from typing import Any, Final

from app.routing.kind import Kind
from app.routing.observations import ONLY, SelfReport
from app.upstream.introspection.introspector import MODEL, Introspector, ModelOrder
from app.upstream.introspection.pages import (
    Get,
    Page,
    contexts,
    is_number,
    json_of,
    members,
    objects,
    texts,
    total,
)

_ACTIVE: Final = re.compile(rb"^llamacpp:requests_(?:processing|deferred) (\S+)", re.MULTILINE)


METRICS_LET_SLEEP: Final = 10_760
"""A build from which on `/metrics` does not count as activity
(https://github.com/ggml-org/llama.cpp/pull/27376, August 2026)."""


class LlamaCpp(Introspector):
    """Tells its slots and which are at work; as a router, which models are in memory.

    One that tells whether it sleeps would be woken, or kept awake, by being asked for its
    slots: that is done only while something of ours is at work there, or was a moment ago.
    Others' requests are then seen by its metrics, where these do not keep it awake as well.
    """

    kind = Kind("llamacpp", names_slots=True, saves_slots=True)
    path = "/props"
    # As a router: `tools/server/README.md`, "POST /models/load".
    load = ModelOrder("POST", "/models/load", {"model": MODEL})
    unload = ModelOrder("POST", "/models/unload", {"model": MODEL})

    def __init__(self, server: str) -> None:
        super().__init__(server)
        self._slots: int | None = None
        """How many it told of last."""
        self._at_rest = False
        """Whether nothing was at work there when it was last looked at."""

    @staticmethod
    def fits(page: Page) -> bool:
        return not {"total_slots", "role"}.isdisjoint(members(page))

    @staticmethod
    def loads(page: Page) -> bool:
        return page[0] == 503 and b"Loading model" in page[1]

    async def report(self, get: Get, *, in_use: bool) -> SelfReport:
        page = await get(self.path)
        if self.loads(page):
            return self._loading()
        props = members(page)
        if props.get("role") == "router":
            return self._router(objects(json_of(await get("/models")), "data"))
        slots = props.get("total_slots")
        if is_number(slots):
            self._slots = slots or None
        rest = SelfReport(
            self.server,
            self.kind,
            slots=self._slots,
            busy_slots=frozenset() if props.get("endpoint_slots") is True else None,
            active=0,
            contexts=_context(props.get("default_generation_settings")),
        )
        if props.get("is_sleeping") is True:
            self._at_rest = True
            return replace(rest, loaded=frozenset())
        if "is_sleeping" in props and self._at_rest and not in_use:
            seen = _build(props) >= METRICS_LET_SLEEP
            if not seen or not total(await get("/metrics"), _ACTIVE):
                return rest
        report = await self._at_work(get)
        self._at_rest = report.active == 0
        return report

    async def _at_work(self, get: Get) -> SelfReport:
        page = await get("/slots")
        if self.loads(page):
            return self._loading()
        slots = json_of(page)
        numbers = [x.get("id") for x in slots or ()] if _is_list_of_objects(slots) else []
        if numbers and all(map(is_number, numbers)) and len(set(numbers)) == len(numbers):
            busy = frozenset(x["id"] for x in slots if x.get("is_processing") is True)
            self._slots = len(numbers)
            return SelfReport(
                self.server,
                self.kind,
                slots=self._slots,
                busy_slots=busy,
                active=len(busy),
                contexts=_context(min(slots, key=lambda x: _context(x).get(ONLY, 0))),
            )
        active = total(await get("/metrics"), _ACTIVE)  # it runs with `--no-slots`
        return SelfReport(self.server, self.kind, slots=self._slots, active=active)

    def _router(self, models: list[dict[str, Any]]) -> SelfReport:
        states = [(_value(x.get("status")), x) for x in models]
        return SelfReport(
            self.server,
            self.kind,
            loaded=texts((x for s, x in states if s in ("loaded", "sleeping")), "id"),
            starting=texts((x for s, x in states if s == "loading"), "id"),
            asleep=texts((x for s, x in states if s == "sleeping"), "id"),
        )

    def _loading(self) -> SelfReport:
        return SelfReport(self.server, self.kind, loading=True)


def _build(props: dict[str, Any]) -> int:
    """Read the number of the build, `b10760-…`; 0 where it is not known."""
    found = re.match(r"b(\d{1,9})\b", str(props.get("build_info")))
    return int(found[1]) if found else 0


def _context(told: object) -> dict[str, int]:
    """Read how many tokens a slot has."""
    return contexts([(ONLY, told.get("n_ctx"))]) if isinstance(told, dict) else {}


def _value(status: object) -> object:
    return status.get("value") if isinstance(status, dict) else status


def _is_list_of_objects(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(x, dict) for x in found)
