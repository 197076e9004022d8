"""The prober over real sockets: what it asks, and what it makes of the responses."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.routing.balancer import Balancer
from app.routing.fleet import Fleet, Server
from app.routing.health_window import Sample
from app.routing.observations import HealthSeen, ModelsSeen, Observation, ProbeFailed
from app.upstream.http import RESPONSE_LIMIT
from app.upstream.pool import Pool
from app.upstream.prober import Prober
from app.upstream.server_probe import Pace, ServerProbe
from tests.fakes.clock import Clock
from tests.fakes.ports import free_port
from tests.fakes.sockets import Message, Script, Visit, answering, listening, ok, until

pytestmark = pytest.mark.anyio

MODELS = b'{"data":[{"id":"m"},{"id":"m-2","extra":{}}]}'


def serving(health: bytes = b'{"status":"idle"}', models: bytes = MODELS) -> Script:
    """Write a script that answers both addresses with these bodies."""

    async def script(visit: Visit) -> None:
        while True:
            message = await visit.message()
            path = message.start.split()[1]
            await visit.say(ok({"/llmhealth": health, "/v1/models": models}.get(path, b"")))

    return script


class Probing:
    def __init__(self, port: int, *, health: bool, clock: Clock) -> None:
        base = f"http://127.0.0.1:{port}"
        fleet = Fleet.of([Server("A", base, base if health else None)])
        self.balancer = Balancer(fleet, clock=clock)
        self.backend = self.balancer.backend("A")
        self.observation: list[Observation] = []
        self.pool = Pool(base)
        pace = Pace(1.0, 10.0, connect_timeout=5.0, read_timeout=5.0)
        nothing: Any = lambda *_, **__: None  # noqa: E731
        self.probing = ServerProbe(
            self.backend, self.pool, self._observe, pace, clock, nothing, nothing
        )

    def _observe(self, observation: Observation) -> None:
        self.observation.append(observation)
        self.balancer.observe(observation)

    async def probe(self) -> list[Observation]:
        self.observation.clear()
        await self.probing.probe()
        return sorted(self.observation, key=repr)


@contextlib.asynccontextmanager
async def probing(
    port: int, *, health: bool = True, clock: Clock | None = None
) -> AsyncIterator[Probing]:
    found = Probing(port, health=health, clock=clock or Clock(5.0))
    try:
        yield found
    finally:
        found.probing.close()
        found.pool.close()


@pytest.mark.parametrize(
    ("body", "busy", "percent"),
    [
        (b'{"status":"idle","gpu_util_max5s":12.5,"window_seconds":5}', False, 12.5),
        (b'{"status":"busy","gpu_util_max5s":88}', True, 88.0),
        (b'{"status":"idle"}', False, 0.0),
        (b'{"status":"busy","gpu_util_max5s":"high"}', True, 100.0),
        (b'{"status":"idle","gpu_util_max5s":NaN}', False, 100.0),
        (b'{"status":"idle","gpu_util_max5s":1e999}', False, 100.0),
        (b'{"status":"idle","gpu_util_max5s":-5}', False, 0.0),
        (b'{"status":"idle","gpu_util_max5s":1' + b"0" * 400 + b"}", False, 100.0),
        (b"idle", False, 0.0),
        (b" BUSY\r\n", True, 100.0),
        (b"ok", False, 0.0),
        (b'"idle"', False, 0.0),
    ],
)
async def test_health_answers_are_understood(body: bytes, busy: bool, percent: float) -> None:
    async with listening(serving(body)) as port, probing(port) as found:
        assert HealthSeen("A", Sample(busy, percent, 5.0)) in await found.probe()


@pytest.mark.parametrize(
    "body",
    [b"", b"fine", b"{}", b"[]", b'{"status":1}', b'{"status":', b"\xff", b"{" * 100_000, b"7"],
)
async def test_what_says_nothing_about_health_is_a_failure(body: bytes) -> None:
    async with listening(serving(body)) as port, probing(port) as found:
        assert ProbeFailed("A", "health", unreachable=False) in await found.probe()


@pytest.mark.parametrize(
    ("body", "models"),
    [
        (MODELS, ["m", "m-2"]),
        (b'{"data":[]}', []),
        (b'{"data":[{"id":7},{"id":""},{"id":"\\ud800"},"x",{},{"id":"a\\nb"}]}', []),
        (b'{"data":{}}', None),
        (b"[]", None),
        (b"<html>", None),
        (b"[" * 100_000, None),
    ],
)
async def test_model_lists_are_understood(body: bytes, models: list[str] | None) -> None:
    async with listening(serving(models=body)) as port, probing(port) as found:
        assert ModelsSeen("A", models) in await found.probe()


@pytest.mark.parametrize(
    ("status", "observation"),
    [
        (b"404 Not Found", ModelsSeen("A", None)),
        (b"401 Unauthorized", ModelsSeen("A", None)),
        (b"302 Found", ModelsSeen("A", None)),
        (b"503 Loading", ProbeFailed("A", "models", unreachable=False)),
    ],
)
async def test_a_model_api_that_answers_below_500_is_alive(
    status: bytes, observation: Observation
) -> None:
    answer = (
        b"HTTP/1.1 " + status + b"\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    )
    async with listening(answering(answer)) as port, probing(port, health=False) as found:
        assert await found.probe() == [observation]


async def test_a_refused_connection_is_told_apart_from_a_bad_answer() -> None:
    async with probing(free_port()) as found:
        assert await found.probe() == [
            ProbeFailed("A", "health", unreachable=True),
            ProbeFailed("A", "models", unreachable=True),
        ]


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", ok(b"x")[:-1]])
async def test_an_answer_that_is_none_is_a_failure(answer: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(answer)

    async with listening(script) as port, probing(port, health=False) as found:
        assert await found.probe() == [ProbeFailed("A", "models", unreachable=False)]


async def test_an_endless_list_is_given_up_and_no_outage() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * (RESPONSE_LIMIT + 1))
        await visit.closed()

    async with listening(script) as port, probing(port, health=False) as found:
        assert await found.probe() == [ModelsSeen("A", None)]


async def test_a_long_list_is_a_long_list() -> None:
    names = [f"model {number}" for number in range(100_000)]
    body = json.dumps({"data": [{"id": name, "object": "model"} for name in names]}).encode()
    async with listening(serving(models=body)) as port, probing(port) as found:
        assert ModelsSeen("A", names) in await found.probe()


async def test_models_are_listed_again_after_their_time_to_live() -> None:
    clock = Clock()
    async with listening(serving()) as port, probing(port, clock=clock) as found:
        counts = []
        for seconds in (0, 9, 1, 9):
            clock.tick(seconds)
            counts.append(len(await found.probe()))

    assert counts == [2, 1, 2, 1]


async def test_a_model_api_in_trouble_is_asked_every_time() -> None:
    async with listening(serving()) as port, probing(port) as found:
        await found.probe()
        found.balancer.observe(ProbeFailed("A", "models", unreachable=True))
        counts = [len(await found.probe()) for _ in range(2)]

    assert counts == [2, 2]
    assert found.backend.health.healthy


async def test_a_server_without_a_health_address_is_probed_by_its_model_list_each_time() -> None:
    seen: list[Message] = []
    async with (
        listening(answering(ok(MODELS), seen)) as port,
        probing(port, health=False) as found,
    ):
        for _ in range(3):
            await found.probe()

    assert [message.start for message in seen] == ["GET /v1/models HTTP/1.1"] * 3


async def test_a_dead_server_does_not_delay_the_news_of_others() -> None:
    """One dead server once blocked the polling of all others for seconds."""

    async def silent(visit: Visit) -> None:
        await visit.message()
        await visit.closed()

    async with listening(silent) as dead, listening(serving()) as alive:
        servers = [
            Server(name, (url := f"http://127.0.0.1:{port}"), url, kind="llmhealth")
            for name, port in (("dead", dead), ("alive", alive))
        ]
        balancer = Balancer(Fleet.of(servers), clock=Clock())
        three = asyncio.Event()
        heard: list[str] = []

        def observe(observation: Observation) -> None:
            balancer.observe(observation)
            heard.append(observation.server)
            if len(heard) == 4:  # once both sides, then health alone
                three.set()

        pools = {server.name: Pool(server.model_base) for server in servers}
        prober = Prober(balancer.backends(), pools, observe, interval=0.01, read_timeout=60.0)
        prober.start()
        await three.wait()
        await prober.stop()

    assert set(heard) == {"alive"}


async def test_a_fault_in_the_news_does_not_end_the_watch() -> None:
    times = 0
    again = asyncio.Event()

    def observe(observation: Observation) -> None:
        nonlocal times
        times += 1
        if times > 2:
            again.set()
        raise ValueError("a fault of ours")

    async with listening(serving()) as port:
        server = Server("A", f"http://127.0.0.1:{port}", kind="openai")
        balancer = Balancer(Fleet.of([server]), clock=Clock())
        pools = {"A": Pool(server.model_base)}
        prober = Prober(balancer.backends(), pools, observe, interval=0.01)
        prober.start()
        await again.wait()
        await prober.stop()


async def test_a_server_of_another_kind_is_found_after_an_outage_behind_a_proxy() -> None:
    pages = {"/v1/models": MODELS, "/api/ps": b'{"models":[]}'}

    async def script(visit: Visit) -> None:
        while True:
            path = (await visit.message()).start.split()[1]
            status = b"200 OK" if pages else b"502 Bad Gateway"
            body = pages.get(path, b"")
            await visit.say(
                b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n" % (status, len(body)), body
            )

    async with listening(script) as port:
        balancer = Balancer(Fleet.of([Server("A", f"http://127.0.0.1:{port}")]), clock=Clock())
        backend = balancer.backend("A")
        pools = {"A": Pool(backend.server.model_base)}
        prober = Prober([backend], pools, balancer.observe, interval=0.01, models_interval=0.01)
        prober.start()
        try:
            async with asyncio.timeout(10):
                await until(lambda: (told := backend.self_report) and told.kind.name == "ollama")
                pages.clear()
                await until(lambda: not backend.health.healthy)
                assert backend.self_report is None
                pages.update({"/v1/models": MODELS, "/running": b'{"running":[]}'})
                await until(
                    lambda: (told := backend.self_report) and told.kind.name == "llama-swap"
                )
        finally:
            await prober.stop()
