"""Asks every server, again and again, how it is and which models it has."""

import asyncio
import contextlib
import json
import math
import random
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Literal

import httpx

from app.routing.fleet import NAME_LIMIT, Server
from app.routing.news import Asked, Failure, HealthAnswer, ModelsAnswer, News
from app.routing.standing import Standing
from app.routing.window import Sample, Side
from app.upstream.introspection.introspection import Introspection
from app.upstream.introspection.pages import Silent

ANSWER_LIMIT = 1024 * 1024
"""Longest answer that is read, in bytes: a list of some thousand models."""

JITTER = 0.1
"""The part of the interval by which a probe may come earlier or later, so that probes of many
servers do not come together."""

CheckResult = Literal["ok", "timeout", "refused", "bad_response"]
"""What came of a probe."""


class Unusable(Exception):
    """An answer says nothing that we understand."""


class Prober:
    """Two tasks for each server, so that a dead one never delays the news of the others.

    Every `interval` seconds a server's health address is asked for its GPU load, and every
    `models_ttl` seconds its model API for its models; every `interval` while that fails, and
    where there is no health address. Servers are also asked what they tell of themselves, as
    long as they can be reached. `learn` is told what came of it; `checked` of each probe
    of a health address, or of a model list in its stead, and how many seconds it took; `failed`
    of a fault of our own.
    Timeouts are in seconds.
    """

    def __init__(
        self,
        standings: Iterable[Standing],
        learn: Callable[[News], None],
        *,
        interval: float = 1.0,
        models_ttl: float = 10.0,
        connect_timeout: float = 5.0,
        read_timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        checked: Callable[[str, CheckResult, float], None] = lambda *_: None,
        failed: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self._standings = tuple(standings)
        self._learn = learn
        self._checked = checked
        self._failed = failed
        self._interval = interval
        self._models_ttl = models_ttl
        self._timeout = httpx.Timeout(read_timeout, connect=connect_timeout)
        self._clock = clock
        self._senses = {
            s.server.name: Introspection(s.server.name, s.server.kind, clock)
            for s in self._standings
        }
        names = [s.server.name for s in self._standings]
        self._probed, self._reached, self._sensed = (
            {name: asyncio.Event() for name in names} for _ in range(3)
        )
        self._longest = connect_timeout + read_timeout
        self._listed_at: dict[str, float] = {}
        self._client: httpx.AsyncClient | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Probe from now on."""
        self._tasks = [
            asyncio.create_task(watch, name=f"probe {standing.server.name}")
            for standing in self._standings
            for watch in (
                self._watch(standing),
                self._listen(standing),
                self._introduce(standing),
            )
        ]

    async def stop(self) -> None:
        """Probe no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def probe(self, standing: Standing) -> None:
        """Ask a server what is due, both sides at once."""
        server = standing.server
        due = []
        if server.health_base is not None:
            url = f"{server.health_base}/llmhealth"
            due.append(self._ask(server, "health", url, self._health))
        listed_at = self._listed_at.get(server.name, -math.inf)
        if (
            server.health_base is None
            or standing.window.troubled
            or standing.models is None
            or self._clock() - listed_at >= self._models_ttl
        ):
            url = f"{server.model_base}/v1/models"
            due.append(self._ask(server, "models", url, self._models))
        await asyncio.gather(*due)

    async def _watch(self, standing: Standing) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                await self.probe(standing)
            except Exception:  # noqa: BLE001 - logged and counted
                # A fault of ours in one answer must not end the watch over the server.
                self._failed("probe", server=standing.server.name)
            if standing.window.gone:
                self._senses[standing.server.name].forget()
            self._probed[standing.server.name].set()
            pause = self._interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
            await asyncio.sleep(max(0.0, begun + pause - loop.time()))

    async def _introduce(self, standing: Standing) -> None:
        """Tell when a server was asked for all there is to know, or had the time for it."""
        name = standing.server.name
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._longest):
                await self._probed[name].wait()
                if self._reached[name].is_set():
                    await self._sensed[name].wait()
        self._learn(Asked(name))

    async def _listen(self, standing: Standing) -> None:
        """Ask for a server's own words apart from the rest: it may be slow to find them."""
        while True:
            await self._reached[standing.server.name].wait()
            try:
                await self.sense(standing)
            except Exception:  # noqa: BLE001 - logged and counted
                self._failed("introspection", server=standing.server.name)
            self._sensed[standing.server.name].set()
            await asyncio.sleep(self._interval)

    async def sense(self, standing: Standing) -> None:
        """Ask a server that can be reached what it tells of itself.

        Silence says nothing: llama.cpp's answers such questions between two batches only, and
        one batch of a long prompt can take longer than we wait.
        """
        server = standing.server
        if not self._reached[server.name].is_set():
            return

        async def get(path: str) -> tuple[int, bytes]:
            try:
                return await self._get(server.model_base + path)
            except (httpx.HTTPError, httpx.InvalidURL, Unusable) as error:
                raise Silent from error

        with contextlib.suppress(Silent):
            in_use = standing.ledger.total > 0
            asked_at = self._clock()
            report = await self._senses[server.name].report(get, in_use=in_use)
            if report is not None:
                self._learn(replace(report, asked_at=asked_at))

    async def _ask(
        self, server: Server, side: Side, url: str, read: Callable[[str, int, bytes], News]
    ) -> None:
        begun = time.monotonic()
        result: CheckResult = "ok"
        try:
            news = read(server.name, *await self._get(url))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            refused = isinstance(error, httpx.ConnectError)
            result = "refused" if refused else "timeout"
            news = Failure(server.name, side, unreachable=True, reason=result, silent=not refused)
            if side == "models":
                self._reached[server.name].clear()
                self._senses[server.name].forget()
        except (httpx.HTTPError, httpx.InvalidURL, Unusable) as error:
            silent = isinstance(error, httpx.TimeoutException)
            result = "timeout" if silent else "bad_response"
            news = Failure(server.name, side, unreachable=False, reason=result, silent=silent)
        if side == "health" or server.health_base is None:
            self._checked(server.name, result, time.monotonic() - begun)
        self._learn(news)

    async def _get(self, url: str) -> tuple[int, bytes]:
        if self._client is None:
            # Built in the event loop that uses it. Proxies of the environment are for the
            # internet, not for the machines next door.
            self._client = httpx.AsyncClient(timeout=self._timeout, trust_env=False)
        body = b""
        async with self._client.stream("GET", url) as answer:
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > ANSWER_LIMIT:
                    raise Unusable("the answer is too long")
            return answer.status_code, body

    def _health(self, server: str, status: int, body: bytes) -> News:
        if status != 200:
            raise Unusable(f"status {status}")
        busy, percent = _load(body)
        return HealthAnswer(server, Sample(busy, percent, self._clock()))

    def _models(self, server: str, status: int, body: bytes) -> News:
        self._reached[server].set()
        if (loading := self._senses[server].loads((status, body))) is not None:
            return loading
        if status >= 500:
            raise Unusable(f"status {status}")
        self._listed_at[server] = self._clock()
        return ModelsAnswer(server, _names(body) if status == 200 else None)


def _load(body: bytes) -> tuple[bool, float]:
    """Read a health answer: JSON as ours, or one word; whether busy, and the GPU's percent."""
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


def _names(body: bytes) -> Collection[str] | None:
    """Read a model list as OpenAI's API writes it; None where it is none."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    data = told.get("data") if isinstance(told, dict) else None
    if not isinstance(data, list):
        return None
    ids = (model.get("id") for model in data if isinstance(model, dict))
    return [name for name in ids if isinstance(name, str) and _is_name(name)]


def _is_name(text: str) -> bool:
    """Whether a name can be asked for, logged and shown: half a surrogate pair cannot."""
    return 0 < len(text) <= NAME_LIMIT and text.isprintable()
