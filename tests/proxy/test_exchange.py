"""The exchange as a whole: it ends once, whatever happens, and goes one way."""

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

import app
from app.proxy import exchange
from tests.fakes import stack
from tests.fakes.sockets import (
    SSE,
    Cut,
    Message,
    Visit,
    answering,
    chat,
    chunk,
    get,
    listening,
    ok,
    post,
)
from tests.fakes.stack import relaying

REQUESTS = {
    "chat": chat(),
    "stream": chat(stream=True),
    "unreadable": post(b"{", b"/v1/chat/completions"),
    "upload": post(b"x" * 300, b"/v1/files"),
    "page": get(b"/page"),
    "two": chat() + get(b"/page"),
}

RESPONSES = {
    "whole": ok(b"x" * 50),
    "event": SSE + chunk(b"data: 1\n\n"),
    "long": b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 2_000_000,
    "more": chunk(b"data: 2\n\n"),
    "end": chunk(b""),
    "busy": b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
    "garbage": b"HTTP/9.9 nonsense\r\n\r\n",
}


class Exchanges(RuleBasedStateMachine):
    """Clients and servers do what they like, in any order; two servers, one place at each."""

    clients = Bundle("clients")

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.context = contextlib.AsyncExitStack()
        self.visits: list[asyncio.StreamWriter] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.sent = 0
        self.loop.run_until_complete(self._open())

    async def _open(self) -> None:
        ports = [await self.context.enter_async_context(listening(self._visited)) for _ in "AB"]
        self.stack = await self.context.enter_async_context(
            relaying(*ports, request_max=1, capacity=2, keepalive=0.001, linger=0.0)
        )

    async def _visited(self, visit: Visit) -> None:
        self.visits.append(visit.writer)
        await visit.closed()

    def act(self, *actions: Callable[[], object]) -> None:
        """Do something in the event loop, without a turn of it in between."""

        async def turn() -> None:
            for action in actions:
                action()

        self.loop.run_until_complete(turn())

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(8):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    async def _connect(self, packet: bytes) -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", self.stack.port, limit=1 << 10)
        self.writers.append(writer)
        writer.write(packet)
        return writer

    @rule(target=clients, what=st.sampled_from(sorted(REQUESTS)), part=st.integers(1, 500))
    def send_a_request_or_a_part_of_it(
        self, what: str, part: int
    ) -> tuple[asyncio.StreamWriter, bytes]:
        self.sent += 1
        request = REQUESTS[what].replace(b"\r\n", b"\r\nx-request-id: r-%d\r\n" % self.sent, 1)
        writer = self.loop.run_until_complete(self._connect(request[:part]))
        self.settle()
        return writer, request[part:]

    @rule(client=clients)
    def send_the_rest(self, client: tuple[asyncio.StreamWriter, bytes]) -> None:
        writer, rest = client
        if not writer.transport.is_closing():
            writer.write(rest)
        self.settle()

    @rule(client=clients, reset=st.booleans(), settled=st.booleans())
    def leave(self, client: tuple[asyncio.StreamWriter, bytes], reset: bool, settled: bool) -> None:
        transport = client[0].transport
        transport.abort() if reset else transport.close()
        if settled:
            self.settle()

    @rule(client=clients, reads=st.booleans())
    def read_or_not(self, client: tuple[asyncio.StreamWriter, bytes], reads: bool) -> None:
        transport = client[0].transport
        if not transport.is_closing():
            transport.resume_reading() if reads else transport.pause_reading()  # type: ignore[attr-defined]
        self.settle()

    @rule(server=st.integers(0, 7), what=st.sampled_from(sorted(RESPONSES)), settled=st.booleans())
    def respond(self, server: int, what: str, settled: bool) -> None:
        if server < len(self.visits) and not self.visits[server].transport.is_closing():
            self.visits[server].write(RESPONSES[what])
        if settled:
            self.settle()

    @rule(server=st.integers(0, 7), reset=st.booleans(), settled=st.booleans())
    def fail(self, server: int, reset: bool, settled: bool) -> None:
        if server < len(self.visits):
            transport = self.visits.pop(server).transport
            transport.abort() if reset else transport.close()
        if settled:
            self.settle()

    @rule(seconds=st.sampled_from([10, 100, 1_000]))
    def let_time_pass(self, seconds: int) -> None:
        self.act(lambda: self.stack.after(seconds))
        self.settle()

    @rule()
    def shut_down(self) -> None:
        self.act(*(client.cut_short for client in self.stack.clients))
        self.settle()

    @invariant()
    def every_request_ends_once_at_the_most(self) -> None:
        if hasattr(self, "stack"):
            given = Counter(r.id for r in self.stack.records if r.id.startswith("r-"))
            assert all(times == 1 for times in given.values())

    @invariant()
    def no_server_is_above_its_limit(self) -> None:
        if hasattr(self, "stack"):
            assert all(s.ledger.total <= 1 for s in self.stack.balancer.backends())

    def teardown(self) -> None:
        if not hasattr(self, "stack"):
            return
        for writer in self.writers:
            writer.transport.abort()
        for _ in range(100):
            self.settle()
            if not self.stack.clients:
                break
        assert not +self.stack.begun, "each that began has ended"
        assert not self.stack.in_flight
        assert not self.stack.buffer.held
        assert not len(self.stack.waiting)
        self.loop.run_until_complete(self.context.aclose())
        self.settle()
        self.loop.close()


Exchanges.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestExchanges = Exchanges.TestCase


PIECEWISE = {"on_body", "_read_body", "_pass_body_on", "send", "dial", "take"}
"""What is called for each piece of a body, of which the cut makes more, or by the event loop."""

HOUSE = str(Path(app.__file__).parent)


async def calls_of(request: bytes, cut: Cut, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls inside the program that one request makes, behind its connection."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        place = code.co_filename
        ours = place.startswith(HOUSE) and "/downstream/" not in place
        if event == "call" and ours and code.co_name not in PIECEWISE:
            calls[f"{place}: {code.co_qualname}"] += 1

    monkeypatch.setattr(stack, "cut", cut)
    monkeypatch.setattr("app.upstream.pool.TRUSTED", 60.0)  # however long this takes
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as running:
        for _ in range(2):  # the first goes where it was never, the second where it was
            await running.ask(request)
        before = len(seen)
        sys.setprofile(note)
        try:
            await running.ask(request)
        finally:
            sys.setprofile(None)
        assert len(seen) <= before + 1
    return calls


@pytest.mark.anyio
@pytest.mark.skipif(not exchange.__file__.endswith(".py"), reason="compiled calls are not seen")
@pytest.mark.parametrize("what", sorted({*REQUESTS} - {"two"}))
async def test_a_request_goes_the_same_way_however_it_is_cut(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: tuple[Cut, ...] = ("whole", "head and body", "byte by byte")
    whole, *others = [await calls_of(REQUESTS[what], cut, monkeypatch) for cut in cuts]

    assert whole
    assert others == [whole, whole]
