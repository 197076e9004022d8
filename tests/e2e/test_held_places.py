"""A slot stays empty for the conversation that has just left it, and for no longer than it may."""

import asyncio
import json

import pytest

from tests.fakes.model_host import STREAM_END, ModelHost, event, status
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, chunk, ok, post

pytestmark = pytest.mark.anyio

USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":300,"completion_tokens":1,'
    b'"prompt_tokens_details":{"cached_tokens":0}}}\n\n'
)


class OneSlot:
    """A server of llama.cpp's kind with one slot, which reads slowly."""

    def __init__(self) -> None:
        self.host = ModelHost(self._handle, probe=self._probe)

    async def _handle(self, visit: Visit, message: Message) -> bytes | None:
        if message.start.startswith("POST /slots/"):
            return status(501)  # it saves none
        await asyncio.sleep(0.25)  # it reads
        return SSE + event() + chunk(USAGE) + STREAM_END

    async def _probe(self, visit: Visit, message: Message) -> bytes | None:
        match message.start.split()[1]:
            case "/v1/models":
                return self.host.list_models(message)
            case "/props":
                return ok(b'{"total_slots":1}')
            case "/slots":
                busy = "true" if self.host.active else "false"
                return ok(b'[{"id":0,"is_processing":%b}]' % busy.encode())
        return status(404)

    @property
    def order(self) -> list[str]:
        """Who was served, in order."""
        bodies = [json.loads(message.body) for message in self.host.seen]
        said = [body["messages"] for body in bodies if "messages" in body]
        return [messages[0]["content"].split()[0] for messages in said]


def asking(who: str, turns: int) -> bytes:
    texts = [f"{who} {number} " * 400 for number in range(turns)]
    messages = [{"role": "user", "content": text} for text in texts]
    body = {"model": "m", "messages": messages, "stream": True}
    return post(
        json.dumps(body).encode(), b"/v1/chat/completions", f"x-forwarded-for: {who}".encode()
    )


ALICE, BOB, CAROL = "10.0.0.1", "10.0.0.2", "10.0.0.3"

BEFORE = [ALICE, CAROL, ALICE, ALICE]


async def _come_back(balancer: Running) -> None:
    """Have a conversation pause shortly, so that it is known to come back soon.

    Another has its slot in between: what leaves it is shown to be lost.
    """
    for turns, who in enumerate(BEFORE, 4):
        assert (await balancer.ask(asking(who, turns))).status == 200


async def test_a_slot_is_held_for_who_comes_back_soon() -> None:
    server = OneSlot()
    async with server.host.running(), balancing({"A": server.host}) as balancer:
        await _come_back(balancer)
        bob = asyncio.create_task(balancer.ask(asking(BOB, 5)))
        await balancer.until(lambda: _waiting(balancer))
        assert (await balancer.ask(asking(ALICE, 8))).status == 200
        assert (await bob).status == 200

    assert server.order == [*BEFORE, ALICE, BOB]


async def test_a_slot_is_given_on_when_nobody_comes_back_in_time() -> None:
    server = OneSlot()
    async with server.host.running(), balancing({"A": server.host}) as balancer:
        await _come_back(balancer)
        bob = await balancer.ask(asking(BOB, 5))
        await balancer.until(lambda: len(balancer.events("request")) == 5)
        waited = balancer.events("request")[-1]["queue_wait_ms"]

    assert bob.status == 200
    assert waited > 0


@pytest.mark.parametrize("settings", [{"hold_max": 0}, {"queue_max": 0}])
async def test_nothing_is_held_where_that_is_off_or_nobody_may_wait(
    settings: dict[str, object],
) -> None:
    server = OneSlot()
    async with server.host.running(), balancing({"A": server.host}, **settings) as balancer:  # type: ignore[arg-type]
        await _come_back(balancer)
        bob = await balancer.ask(asking(BOB, 5))

    assert bob.status == 200
    assert server.order == [*BEFORE, BOB]


async def _waiting(balancer: Running) -> bool:
    return bool((await balancer.snapshot())["queue"]["waiting"])
