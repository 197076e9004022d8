"""Probing one server: its agent, its models, and what it tells of itself."""

import asyncio
import contextlib
import json
import math
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Final, Literal, NamedTuple

import structlog

from app.routing.backend import Backend
from app.routing.health_window import Sample, Side
from app.routing.observations import (
    HealthSeen,
    Introduced,
    ModelsSeen,
    Observation,
    ProbeFailed,
    SelfReport,
)
from app.upstream.errors import TimedOut, Unanswered, Unreachable, UpstreamError
from app.upstream.fetch import TooLong, fetch
from app.upstream.http import Client
from app.upstream.introspection.introspection import PLAIN, Introspection
from app.upstream.introspection.pages import Page, Silent
from app.upstream.model_list import model_list
from app.upstream.pool import Pool

PAGE_LIMIT: Final = 4 * 1024 * 1024
"""Longest page that is read each second, in bytes."""

JITTER: Final = 0.1
"""The part of the interval by which a probe may come earlier or later, so that probes of many
servers do not come together."""

CheckResult = Literal["ok", "timeout", "refused", "bad_response"]
"""What came of a probe."""

log: Final = structlog.get_logger(__name__)


IsTold = Callable[[str, type[HealthSeen | ModelsSeen | SelfReport], float], bool]
"""Whether somebody else has seen something of a server within so many seconds."""

LATE: Final = 2.5
"""After so many intervals in which nobody has told of a server, it is probed here."""


class Unusable(Exception):
    """A response says nothing that we understand."""


class Pace(NamedTuple):
    """How often servers are probed, and how long they may take, in seconds."""

    interval: float
    models_interval: float
    connect_timeout: float
    read_timeout: float


class ServerProbe:
    """Follows one server; `Prober` says what it calls, and when."""

    def __init__(
        self,
        backend: Backend,
        pool: Pool,
        observe: Callable[[Observation], None],
        pace: Pace,
        clock: Callable[[], float],
        checked: Callable[[str, CheckResult, float], None],
        failed: Callable[..., None],
        is_told: IsTold | None = None,
    ) -> None:
        self.server = server = backend.server
        self._backend = backend
        self._observe = observe
        self._pace = pace
        self._clock = clock
        self._checked = checked
        self._failed = failed
        self._is_told_of = is_told
        self._pool = pool
        self._agent = (
            None if server.health_base is None else Pool(server.health_base, address=server.address)
        )
        self._client = Client(pool, connect_timeout=pace.connect_timeout, silence=pace.read_timeout)
        self._introspection = Introspection(server.name, server.kind, clock)
        self._probed, self._reached, self._introspected = (asyncio.Event() for _ in range(3))
        self._introduced = asyncio.Event()
        self._listed_at = -math.inf

    def is_of(self, backend: Backend, pools: Mapping[str, Pool]) -> bool:
        """Whether it follows a server as it is set now."""
        server = backend.server
        same_agent = server.health_base == self.server.health_base
        return same_agent and pools[server.name] is self._pool

    def close(self) -> None:
        """Close the connections to the agent; those to the model API are the pool's."""
        if self._agent is not None:
            self._agent.close()

    # Tasks, until they are cancelled

    async def watch(self) -> None:
        """Probe at each interval."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                await self.probe()
            except Exception:  # noqa: BLE001 - logged and counted
                # A fault of ours in one response must not end the watch over the server.
                self._failed("probe", server=self.server.name)
            if self._backend.health.down:
                self._introspection.forget()
            self._probed.set()
            pause = self._pace.interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
            await asyncio.sleep(max(0.0, begun + pause - loop.time()))

    async def introspect(self) -> None:
        """Ask for a server's own words apart from the rest: it may be slow to find them."""
        while True:
            await self._reached.wait()
            try:
                await self.ask_for_report()
            except Exception:  # noqa: BLE001 - logged and counted
                self._failed("introspection", server=self.server.name)
            self._introspected.set()
            await asyncio.sleep(self._pace.interval)

    async def introduce(self) -> None:
        """Return when the server was asked for all there is to know, or had the time for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.connect_timeout + self._pace.read_timeout):
                await self._probed.wait()
                if self._reached.is_set():
                    await self._introspected.wait()
        self._observe(Introduced(self.server.name))
        self._introduced.set()

    # One round

    async def probe(self) -> None:
        """Ask the server what is due, both sides at once."""
        agent = self._agent
        due = (
            self._backend.health.failing
            or self._backend.models is None
            or self._clock() - self._listed_at >= self._pace.models_interval
        )
        rarely = agent is not None or self.server.kind == PLAIN
        interval = self._pace.models_interval if rarely else self._pace.interval
        questions = []
        # A cloud's API counts requests, and its list changes rarely.
        if (due or not rarely) and not self._is_told(ModelsSeen, interval):
            questions.append(self._ask("models", self._models()))
        if agent is not None and not self._is_told(HealthSeen, self._pace.interval):
            questions.append(self._ask("health", self._health(agent)))
        await asyncio.gather(*questions)

    def _is_told(self, what: type[HealthSeen | ModelsSeen | SelfReport], interval: float) -> bool:
        """Whether others probe it, and have seen so lately. Everybody begins with a look."""
        told = self._is_told_of
        if told is None or not self._introduced.is_set() or self._backend.health.failing:
            return False
        return told(self.server.name, what, LATE * interval)

    async def ask_for_report(self) -> None:
        """Ask a server that can be reached what it tells of itself.

        Silence says nothing: llama.cpp's server answers such questions between two batches only,
        and one batch of a long prompt can take longer than we wait.
        """
        if not self._reached.is_set() or self._is_told(SelfReport, self._pace.interval):
            return

        async def get(path: str) -> Page:
            try:
                return await self._get(self._pool, path)
            except UpstreamError as error:
                raise Silent from error

        with contextlib.suppress(Silent):
            in_use = self._backend.ledger.total > 0
            asked_at = self._clock()
            report = await self._introspection.report(get, in_use=in_use)
            if report is not None:
                self._observe(replace(report, asked_at=asked_at))

    async def _ask(self, side: Side, question: Coroutine[None, None, Observation]) -> None:
        server = self.server.name
        begun = time.monotonic()
        result: CheckResult = "ok"
        try:
            observation = await question
        except (UpstreamError, Unusable) as error:
            silent = isinstance(error, Unanswered | TimedOut)
            unreachable = isinstance(error, Unreachable)
            result = "timeout" if silent else "refused" if unreachable else "bad_response"
            observation = ProbeFailed(
                server,
                side,
                unreachable=unreachable,
                reason=result,
                silent=silent,
                error=self._told(side, error),
            )
            if unreachable and side == "models":
                self._reached.clear()
                self._introspection.forget()
        if side == "health" or self._agent is None:
            self._checked(server, result, time.monotonic() - begun)
        self._observe(observation)

    def _told(self, side: Side, error: Exception) -> str:
        """Say what went wrong, and where."""
        asked = self._pool if side == "models" or self._agent is None else self._agent
        path = "/v1/models" if side == "models" else "/llmhealth"
        return f"{asked.base.decode()}{path}: {error}"

    async def _get(self, pool: Pool, path: str) -> Page:
        response = await fetch(
            pool,
            b"GET %b%b HTTP/1.1\r\nhost: %b\r\naccept: */*\r\nuser-agent: llama-balancer\r\n%b\r\n"
            % (pool.prefix, path.encode(), pool.authority, pool.lines),
            limit=PAGE_LIMIT,
            connect_timeout=self._pace.connect_timeout,
            silence=self._pace.read_timeout,
        )
        return response.status, response.body

    async def _health(self, agent: Pool) -> Observation:
        status, body = await self._get(agent, "/llmhealth")
        if status != 200:
            raise Unusable(f"status {status}")
        busy, percent = _load(body)
        return HealthSeen(self.server.name, Sample(busy, percent, self._clock()))

    async def _models(self) -> Observation:
        server = self.server.name
        try:
            page = await self._client.get("/v1/models")
        except TooLong as error:  # that is our limit, and no outage
            log.warning("models.too_long", server=server, reason=str(error))
            page = 200, b""
        self._reached.set()
        if (loading := self._introspection.loads(page)) is not None:
            return loading
        status, body = page
        if status >= 500:
            raise Unusable(f"status {status}")
        self._listed_at = self._clock()
        listed = model_list(body) if status == 200 else None
        return ModelsSeen(server, None if listed is None else [*listed], listed or {})


def _load(body: bytes) -> tuple[bool, float]:
    """Read a health response: JSON as ours, or one word; whether busy, and the GPU's percent."""
    text = body.decode("utf-8", "replace").strip()
    percent: object = None
    word: object = text
    if text.startswith(("{", '"')):
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            raise Unusable("no JSON") from None
        word = told
        if isinstance(told, dict):
            word, percent = told.get("status"), told.get("gpu_util_max5s")
    word = word.strip().lower() if isinstance(word, str) else None
    if word not in ("idle", "busy", "ok"):
        raise Unusable("neither idle nor busy")
    busy = word == "busy"
    if isinstance(percent, bool) or not isinstance(percent, int | float):
        percent = 100.0 if busy else 0.0
    try:
        number = float(percent)
    except OverflowError:
        number = math.inf
    return busy, min(100.0, max(0.0, number)) if math.isfinite(number) else 100.0
