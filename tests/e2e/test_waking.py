"""A machine is woken when somebody needs it, and sleeps when nobody does."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest

from tests.fakes.model_host import ModelHost, complete, stream
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, chat, listening, ok

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

MAC = "52:54:00:12:34:56"


class Machine:
    """A machine that wakes and sleeps as its switch is told.

    Attributes:
        told: what the switch was told.
        ready: an event without which it does not wake.
    """

    def __init__(self, host: ModelHost, *, awake: bool = False) -> None:
        self.host = host
        self.told: list[str] = []
        self.ready = asyncio.Event()
        self.ready.set()
        self._awake = awake
        self._port = free_port()
        self._power = contextlib.AsyncExitStack()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with listening(self._serve) as self._switch, self._power:
            if self._awake:
                await self._wake()
            yield

    def settings(self, **more: object) -> dict[str, object]:
        address = f"http://127.0.0.1:{self._switch}"
        return {
            "addr": f"http://127.0.0.1:{self._port}",
            "wake": {"url": f"{address}/wake"},
            "sleep": {"url": f"{address}/sleep"},
            "sleep_after": 600,
            **more,
        }

    async def _wake(self) -> None:
        await self._power.enter_async_context(self.host.running(self._port))

    async def _serve(self, visit: Visit) -> None:
        while True:
            message = await visit.message()
            self.told.append(message.start.split()[1])
            if self.told[-1] == "/wake":
                await self.ready.wait()
                await self._wake()
            else:
                await self._power.aclose()
            await visit.say(ok())


async def waits(balancer: Running, seconds: float = 0.0) -> bool:
    queue = (await balancer.snapshot())["queue"]
    return bool(queue["waiting"]) and queue["oldest_wait_seconds"] > seconds


async def probes(balancer: Running) -> float:
    return sum((await balancer.metrics("health_checks_total")).values())


async def probed(balancer: Running, times: float) -> bool:
    return await probes(balancer) >= times


async def test_a_request_wakes_the_only_server_and_waits_for_it() -> None:
    machine = Machine(ModelHost())
    async with (
        machine.running(),
        balancing({"A": machine.settings()}, ready=False) as balancer,
    ):
        await balancer.until(lambda: asleep(balancer))
        assert (await balancer.ask(chat())).status == 200
        assert machine.told == ["/wake"]
        assert await balancer.backends("status") == ["idle"]
        await balancer.until(lambda: balancer.events("server.waking"))


async def asleep(balancer: Running) -> bool:
    return await balancer.backends("status") == ["asleep"]


async def test_waking_may_take_longer_than_others_wait_for_a_place() -> None:
    machine = Machine(ModelHost())
    machine.ready.clear()
    async with (
        machine.running(),
        balancing({"A": machine.settings()}, ready=False, queue_timeout=0.3) as balancer,
        asyncio.TaskGroup() as tasks,
    ):
        asked = tasks.create_task(balancer.ask(chat()))
        await balancer.until(lambda: waits(balancer, 1.0))
        assert await balancer.backends("status") == ["waking"]
        machine.ready.set()
        assert (await asked).status == 200


async def test_a_stream_that_waits_for_a_machine_gets_signs_of_life() -> None:
    machine = Machine(ModelHost(stream))
    machine.ready.clear()
    async with (
        machine.running(),
        balancing({"A": machine.settings()}, ready=False, stream_keepalive=0.2) as balancer,
        balancer.client() as client,
    ):
        await client.say(chat(stream=True))
        assert b": keep-alive" in await client.reader.readuntil(b": keep-alive\n\n")
        machine.ready.set()
        assert b"[DONE]" in await client.reader.readuntil(b"[DONE]")


async def test_a_machine_that_nobody_uses_sleeps_until_the_next_request() -> None:
    machine = Machine(ModelHost(), awake=True)
    async with (
        machine.running(),
        balancing({"A": machine.settings(sleep_after=0.5)}) as balancer,
    ):
        await balancer.until(lambda: asleep(balancer))
        await balancer.until(lambda: machine.told == ["/sleep"])
        models = json.loads((await balancer.get("/v1/models")).body)["data"]
        assert [model["id"] for model in models] == ["m"]
        assert (await balancer.ask(chat())).status == 200
        assert machine.told[:2] == ["/sleep", "/wake"]


async def test_a_machine_at_work_is_not_put_to_sleep() -> None:
    go = asyncio.Event()

    async def slow(visit: Visit, message: Message) -> bytes | None:
        await go.wait()
        return await complete(visit, message)

    machine = Machine(ModelHost(slow), awake=True)
    async with (
        machine.running(),
        balancing({"A": machine.settings(sleep_after=0.5)}) as balancer,
        asyncio.TaskGroup() as tasks,
    ):
        asked = tasks.create_task(balancer.ask(chat()))
        await balancer.until(lambda: machine.host.active)
        before = await probes(balancer)
        await balancer.until(lambda: probed(balancer, before + 12))
        assert machine.told == []
        go.set()
        assert (await asked).status == 200
        await balancer.until(lambda: machine.told == ["/sleep"])


async def test_a_machine_sleeps_on_while_another_has_room() -> None:
    awake, machine = ModelHost(), Machine(ModelHost())
    async with (
        awake.running(),
        machine.running(),
        balancing({"A": awake, "B": machine.settings()}, ready=False) as balancer,
    ):
        for _ in range(5):
            assert (await balancer.ask(chat())).status == 200
        assert machine.told == []


async def test_a_command_that_fails_is_told_of() -> None:
    server = {"addr": f"http://127.0.0.1:{free_port()}", "wake": {"command": "false"}}
    async with (
        balancing({"A": server}, ready=False) as balancer,
        balancer.client() as client,
    ):
        await client.say(chat())
        await balancer.until(lambda: balancer.events("server.wake_failed"))
        (told,) = balancer.events("server.wake_failed")
        assert "false ended with status 1" in told["error"]


async def test_a_machine_is_woken_by_a_magic_packet() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        try:
            card.bind(("127.0.0.1", 9))
        except PermissionError:
            pytest.skip("only root may listen at port 9")
        card.setblocking(False)
        server = {"addr": f"http://127.0.0.1:{free_port()}", "mac": MAC.upper()}
        async with (
            balancing({"A": server}, ready=False) as balancer,
            balancer.client() as client,
        ):
            await client.say(chat())
            heard = await asyncio.get_running_loop().sock_recv(card, 1000)
    assert heard == b"\xff" * 6 + bytes.fromhex(MAC.replace(":", "")) * 16
