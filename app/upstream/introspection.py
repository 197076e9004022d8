"""What model servers tell of themselves: slots, requests at work, models in memory.

Only ever asked by GET, and only for what wakes or loads no model.
"""

import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

from app.routing.fleet import HealthKind
from app.routing.news import Report

Get = Callable[[str], Awaitable[tuple[int, bytes]]]
"""Asks for a path; gives status and body.

Raises:
    Silent: there is no answer that could be read.
"""

AWAY = (502, 503, 504)
"""What a proxy answers for a server that is away (RFC 9110 section 15.6)."""

LOOK_AGAIN = 600.0
"""Seconds after which a server that seemed to be nothing particular is looked at again."""


class Silent(Exception):
    """No answer came, or none that can be read."""


class Sensing:
    """Follows one server. Of kind `auto`, it first finds out what the server is."""

    def __init__(self, server: str, kind: HealthKind, clock: Callable[[], float]) -> None:
        self._server = server
        self._kind = kind
        self._clock = clock
        self._found: HealthKind | None = None if kind == "auto" else kind
        self._looked_at = -math.inf
        self._slots: int | None = None
        """How many it told of last."""
        self._at_rest = False
        """Whether nothing was at work there when it was last looked at."""

    def forget(self) -> None:
        """Note that the server was away: another may come back."""
        self._slots = None
        self._at_rest = False
        self._looked_at = -math.inf
        if self._kind == "auto":
            self._found = None

    def loads(self, status: int, body: bytes) -> Report | None:
        """Tell from any answer whether it is that of a llama.cpp server that loads its model."""
        if self._kind in ("auto", "llamacpp") and status == 503 and b"Loading model" in body:
            self._found = "llamacpp"
            return Report(self._server, "llamacpp", loading=True)
        return None

    async def report(self, ask: Get, *, in_use: bool = False) -> Report | None:
        """Ask the server how it is; None where it does not tell.

        `in_use` tells whether it works on something of ours.

        Raises:
            Silent: it did not answer, or not as its kind does.
        """
        get = _heard(ask)
        if self._found is None or (
            self._found != self._kind == "auto"
            and self._found == "openai"
            and self._clock() - self._looked_at >= LOOK_AGAIN
        ):
            self._found = await _find_out(get)
            self._looked_at = self._clock()
        match self._found:
            case "llamacpp":
                return await self._llamacpp(get, in_use=in_use)
            case "ollama":
                told = _objects(_page(await get("/api/ps")), "models")
                return self._loaded(_texts(told, "name") | _texts(told, "model"))
            case "llama-swap":
                told = _objects(_page(await get("/running")), "running")
                return self._by_state(told, "model", loaded="ready", starting="starting")
            case "lmstudio":
                told = _objects(_page(await get("/api/v0/models")), "data")
                return self._by_state(told, "id", loaded="loaded", starting="loading")
            case "vllm":
                status, _ = await get("/health")
                if status >= 500:  # its engine has not begun yet, or died
                    return Report(self._server, "vllm", loading=True)
                active = _sum(await get("/metrics"), _VLLM)
                return Report(self._server, "vllm", active=active)
        return None

    def _loaded(self, models: frozenset[str]) -> Report:
        return Report(self._server, self._found or "", loaded=models)

    def _by_state(
        self, told: list[dict[str, Any]], name: str, *, loaded: str, starting: str
    ) -> Report:
        """Report models by what their `state` says."""
        states = [(x.get("state"), x) for x in told]
        return Report(
            self._server,
            self._found or "",
            loaded=_texts((x for state, x in states if state == loaded), name),
            starting=_texts((x for state, x in states if state == starting), name),
        )

    async def _llamacpp(self, get: Get, *, in_use: bool) -> Report:
        """Ask llama.cpp's server (its README, "GET /props", "GET /slots", "GET /metrics").

        One that tells whether it sleeps would be woken, or kept awake, by being asked for its
        slots: that is done only while something is at work there. Others' requests are then
        seen by its metrics, where it has them (its README, "Sleeping on Idle").
        """
        answer = await get("/props")
        if (loading := self.loads(*answer)) is not None:
            return loading
        props = _members(answer)
        if props.get("role") == "router":
            told = _objects(_json(await get("/models")), "data")
            states = [(_value(x.get("status")), x) for x in told]
            return Report(
                self._server,
                "llamacpp",
                loaded=_texts((x for s, x in states if s in ("loaded", "sleeping")), "id"),
                starting=_texts((x for s, x in states if s == "loading"), "id"),
                asleep=_texts((x for s, x in states if s == "sleeping"), "id"),
            )
        total = props.get("total_slots")
        if _is_number(total):
            self._slots = total or None
        rest = Report(
            self._server,
            "llamacpp",
            slots=self._slots,
            busy_slots=frozenset() if props.get("endpoint_slots") is True else None,
            active=0,
        )
        if props.get("is_sleeping") is True:
            self._at_rest = True
            return replace(rest, loaded=frozenset())
        if (
            "is_sleeping" in props
            and self._at_rest
            and not in_use
            and not _sum(await get("/metrics"), _LLAMACPP)
        ):
            return rest
        report = await self._llamacpp_at_work(get)
        self._at_rest = report.active == 0
        return report

    async def _llamacpp_at_work(self, get: Get) -> Report:
        answer = await get("/slots")
        if (loading := self.loads(*answer)) is not None:
            return loading
        slots = _json(answer)
        numbers = [x.get("id") for x in slots or ()] if _is_list_of_objects(slots) else []
        if numbers and all(map(_is_number, numbers)) and len(set(numbers)) == len(numbers):
            busy = frozenset(x["id"] for x in slots if x.get("is_processing") is True)
            self._slots = len(numbers)
            return Report(
                self._server,
                "llamacpp",
                slots=self._slots,
                busy_slots=busy,
                active=len(busy),
            )
        active = _sum(await get("/metrics"), _LLAMACPP)  # it runs with `--no-slots`
        return Report(self._server, "llamacpp", slots=self._slots, active=active)


def _heard(ask: Get) -> Get:
    """Take it for silence where a proxy speaks for a server that is away."""

    async def get(path: str) -> tuple[int, bytes]:
        status, body = await ask(path)
        own_words = status == 503 and (path == "/health" or b"Loading model" in body)
        if status in AWAY and not own_words:
            raise Silent
        return status, body

    return get


async def _find_out(get: Get) -> HealthKind:
    """Ask for what only servers of one kind answer.

    Raises:
        Silent: none fitted, but not all were answered.
    """
    questions: tuple[tuple[HealthKind, str, Callable[[tuple[int, bytes]], bool]], ...] = (
        # Another balancer: its paths lead to one of many servers, whose slots are its own matter.
        ("openai", "/llmhealth-snapshot", lambda x: "backends" in _members(x)),
        ("llamacpp", "/props", lambda x: {"total_slots", "role"} & _members(x).keys() != set()),
        ("llama-swap", "/running", lambda x: isinstance(_members(x).get("running"), list)),
        ("ollama", "/api/ps", lambda x: isinstance(_members(x).get("models"), list)),
        (
            "lmstudio",
            "/api/v0/models",
            lambda x: any("state" in m for m in _objects(_json(x), "data")),
        ),
        ("vllm", "/metrics", lambda x: x[0] == 200 and b"vllm:" in x[1]),
    )
    silent = False
    for kind, path, fits in questions:
        try:
            answer = await get(path)
        except Silent:
            silent = True
            continue
        if fits(answer):
            return kind
        if answer[0] == 503 and b"Loading model" in answer[1]:
            return "llamacpp"
    if silent:
        raise Silent  # what it is may show in the answer that did not come
    return "openai"


_VLLM = re.compile(rb"^vllm:num_requests_(?:running|waiting)(?:\{[^\n]*\})? (\S+)", re.MULTILINE)
_LLAMACPP = re.compile(rb"^llamacpp:requests_(?:processing|deferred) (\S+)", re.MULTILINE)


def _sum(answer: tuple[int, bytes], series: re.Pattern[bytes]) -> int | None:
    """Add up some series of a page of metrics; None where there are none."""
    status, body = answer
    if status != 200:
        return None
    values = []
    for text in series.findall(body):
        try:
            value = float(text)
        except ValueError:
            continue
        if math.isfinite(value) and value >= 0:
            values.append(int(value))
    return sum(values) if values else None


def _json(answer: tuple[int, bytes]) -> Any:
    status, body = answer
    if status != 200:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _page(answer: tuple[int, bytes]) -> Any:
    """Read a page that its kind has: an error in its place does not say that it is empty.

    Raises:
        Silent: there is none.
    """
    if answer[0] != 200:
        raise Silent
    return _json(answer)


def _members(answer: tuple[int, bytes]) -> dict[str, Any]:
    told = _json(answer)
    return told if isinstance(told, dict) else {}


def _objects(told: Any, name: str) -> list[dict[str, Any]]:
    found = told.get(name) if isinstance(told, dict) else None
    return [x for x in found if isinstance(x, dict)] if isinstance(found, list) else []


def _texts(objects: Iterable[dict[str, Any]], name: str) -> frozenset[str]:
    return frozenset(x[name] for x in objects if isinstance(x.get(name), str))


def _value(status: object) -> object:
    return status.get("value") if isinstance(status, dict) else status


def _is_list_of_objects(told: Any) -> bool:
    return isinstance(told, list) and all(isinstance(x, dict) for x in told)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
