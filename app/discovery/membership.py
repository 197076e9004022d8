"""The agent's side of joining a balancer: what this machine serves, said again and again."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

import structlog

from app.discovery import mdns
from app.discovery.joined_servers import RENEWAL, SILENCE
from app.discovery.model_servers import PORTS, ModelServer, found
from app.discovery.server_body import OURS
from app.settings import ServerSettings, Settings
from app.settings.listening import published_port, reached_at
from app.settings.schema import AUTO
from app.telemetry import logs
from app.upstream.errors import UpstreamError
from app.upstream.http import Client
from app.upstream.introspection.introspection import PLAIN
from app.upstream.pool import Pool

HERE: Final = "127.0.0.1"

CONNECT_SECONDS: Final = 2.0
READ_SECONDS: Final = 3.0
"""How long the balancer has to respond: the next renewal must not be late."""

RETRY: Final = 1.0
"""Seconds after which a balancer is asked again that did not take the machine in."""

LEAVING: Final = 0.5
"""Seconds between two questions whether anything is in flight here."""

log: Final = structlog.get_logger(__name__)


class Membership:
    """Has a balancer know the model servers of this machine, until it is told to stop."""

    def __init__(self, url: str, settings: Callable[[], Settings]) -> None:
        """Join the balancer at `url`, or the one found; `settings` returns those that hold now."""
        self._settings = settings
        self._url = url
        self._name = settings().join_name or socket.gethostname()
        self._pool: Pool | None = None
        self._places = [ModelServer(HERE, port) for port in PORTS if port != settings().port]
        self._seen: dict[ModelServer, float] = {}
        self._trouble: str | None = None
        self._told: list[str] | None = None
        self._away: dict[str, float] = {}

    async def keep(self, stopping: asyncio.Event) -> None:
        """Join, and say again and again what is here; leave once `stopping` is set."""
        while not stopping.is_set():
            begun = monotonic()
            await self._guarded(self._renew)
            interval = RENEWAL if self._trouble is None else RETRY
            pause = max(0.0, begun + interval - monotonic())
            try:
                async with asyncio.timeout(pause):
                    await stopping.wait()
            except TimeoutError:
                continue
        await self._guarded(self._leave)
        self.close()

    def close(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            self._pool.close()
        for place in self._places:
            place.close()

    @property
    def _balancer(self) -> str:
        return self._url if self._pool is None else self._pool.base.decode()

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:  # noqa: BLE001 - logged and counted
            logs.task_failed("join")

    async def _renew(self) -> None:
        if self._pool is None:
            await self._find()
        if self._pool is None:
            self._note_trouble("no balancer announces itself on the network")
            return
        body = await self._body()
        try:
            status, response = await self._ask("PUT", json.dumps(body).encode())
        except UpstreamError as error:
            self._note_trouble(str(error))
            if self._url == AUTO:
                self._pool = None  # it may be elsewhere
            return
        told = _object(response)
        if status != 200:
            self._note_trouble(_message(told) or f"status {status}")
            return
        self._note_joined([*body["servers"]])
        self._note_statuses(told.get("servers") or {})

    async def _find(self) -> None:
        url: str | None = self._url
        if url == AUTO:
            url = await mdns.find_balancer()
        if url is not None:
            self._pool = Pool(url, connect_timeout=CONNECT_SECONDS)

    async def _leave(self) -> None:
        """Have what is in flight here end, as long as a stop may take."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(self._settings().shutdown_timeout):
                while True:
                    _, response = await self._ask("DELETE")
                    if not _object(response).get("in_flight"):
                        break
                    await asyncio.sleep(LEAVING)
        except (TimeoutError, UpstreamError) as error:
            log.warning("join.left_late", balancer=self._balancer, error=str(error))
        else:
            log.info("join.left", balancer=self._balancer)

    async def _ask(self, method: str, body: bytes = b"") -> tuple[int, bytes]:
        assert self._pool is not None
        client = Client(self._pool, connect_timeout=CONNECT_SECONDS, silence=READ_SECONDS)
        token = self._settings().join_token
        shown = "" if token is None else f"Bearer {token.get_secret_value()}"
        path = f"/llmhealth-join/{quote(self._name, safe='')}"
        return await client.send(method, path, body, {"authorization": shown})

    async def _body(self) -> dict[str, Any]:
        """Write what the balancer shall know."""
        settings = self._settings()
        own = settings.join_servers
        if own:
            servers = {name: _described(told) for name, told in own.items()}
            models = {}
        else:
            here = {f"{self._name}:{place.port}": place for place in await self._present()}
            servers = {name: _found(place) for name, place in here.items()}
            models = {name: place.models for name, place in here.items()}
        if reached_at(settings.host) is not None and settings.tls_cert is None:
            port = published_port() or settings.port
            for server in servers.values():
                server.setdefault("health_port", port)
        return {"address": settings.join_address, "servers": servers, "models": models}

    async def _present(self) -> list[ModelServer]:
        """List the model servers that are here, or were a moment ago: one may start anew."""
        now = monotonic()
        self._seen |= dict.fromkeys(await found(self._places), now)
        return [p for p in self._places if now - self._seen.get(p, -SILENCE) < SILENCE]

    # What is logged, when it changes

    def _note_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble, self._told = trouble, None
            log.warning("join.failed", balancer=self._balancer, error=trouble)

    def _note_joined(self, servers: list[str]) -> None:
        if servers != self._told:
            log.info("join.joined", balancer=self._balancer, servers=servers)
        if not servers and servers != self._told:
            log.warning("join.no_servers", ports=[*PORTS], hint="set BALANCER_JOIN_SERVERS")
        self._trouble, self._told = None, servers

    def _note_statuses(self, statuses: Mapping[str, object]) -> None:
        now = monotonic()
        away = {name for name, status in statuses.items() if status == "invalid"}
        self._away = {name: self._away.get(name, now) for name in away}
        for name, since in self._away.items():
            if SILENCE <= now - since < SILENCE + RENEWAL:
                log.warning(
                    "join.unreachable",
                    server=name,
                    hint="the balancer cannot reach it: does it listen for this machine alone?",
                )


def _described(told: ServerSettings) -> dict[str, Any]:
    """Write a server of the settings, with the keys that the balancer needs."""
    body = told.model_dump(mode="json", exclude_unset=True, exclude={*OURS})
    if told.api_key is not None:
        body["api_key"] = told.api_key.get_secret_value()
    if told.headers:
        body["headers"] = {name: value.get_secret_value() for name, value in told.headers.items()}
    return body


def _found(place: ModelServer) -> dict[str, Any]:
    body: dict[str, Any] = {"addr": place.address}
    if place.kind != PLAIN:
        body["health"] = place.kind
    if place.slots is not None:
        body["request_max"] = place.slots
    return body


def _object(response: bytes) -> dict[str, Any]:
    try:
        told = json.loads(response)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _message(told: Mapping[str, Any]) -> str | None:
    error = told.get("error")
    return error.get("message") if isinstance(error, dict) else None
