"""The load of the benchmark, in a process of its own; prints what came of it as JSON.

python -m tests.bench.load json PORT CONNECTIONS SECONDS
python -m tests.bench.load prompt PORT CONNECTIONS SECONDS
python -m tests.bench.load sse PORT STREAMS SECONDS
python -m tests.bench.load idle PORT STREAMS SECONDS
"""

import asyncio
import functools
import json
import sys
from typing import cast

from tests.bench.loop import run

SYSTEM = 'The user\'s name is "Alice".'
RULES = "Answer in the language of the question, briefly, and say so where you are not sure. " * 6
BODIES: dict[str, dict[str, object]] = {
    "json": {},
    "prompt": {},
    "sse": {"stream": True},
    "idle": {"stream": True, "pace": 0},
}
ANSWERED = ("json", "prompt")
"""Kinds of which answers are counted, not events."""


def conversation(kind: str, client: int) -> list[dict[str, str]]:
    """Say hello, or go on with some 2 KB of a conversation under a system prompt that all share."""
    if kind != "prompt":
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hello!"}]
    said = f"This is conversation {client}, and it has been going on for a while by now. " * 5
    return [
        {"role": "system", "content": RULES},
        {"role": "user", "content": said},
        {"role": "assistant", "content": said[::-1]},
        {"role": "user", "content": "And then?" * 50},
    ]


KEY = "sk-bench-0123456789abcdef"
"""What all clients show; only some of the proxies ask for it."""


def request(kind: str, client: int = 0) -> bytes:
    """Write a chat request as a client would."""
    messages = conversation(kind, client)
    body = json.dumps({"model": "bench", "messages": messages, **BODIES[kind]}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n"
        b"user-agent: bench\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (KEY.encode(), len(body), body)
    )


class Tally:
    """What came of it."""

    def __init__(self) -> None:
        self.answers = 0
        self.events = 0
        self.errors = 0
        self.streams = 0
        self.going = True


class Client(asyncio.Protocol):
    """One connection: asks again as soon as it is answered, or counts events."""

    def __init__(self, kind: str, tally: Tally, number: int) -> None:
        self._streams = kind not in ANSWERED
        self._request = request(kind, number)
        self._tally = tally
        self._buffer = b""
        self._begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self._tally.going:
            self._tally.errors += 1

    def data_received(self, data: bytes) -> None:
        if self._streams:
            if not self._begun:
                self._begun = True
                self._tally.streams += 1
                self._check(data)
            self._tally.events += data.count(b"data: ")
            return
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._buffer) < end + 4 + length:
                return
        elif not self._buffer.endswith(b"0\r\n\r\n"):
            return
        self._check(head)
        self._buffer = b""
        self._tally.answers += 1
        if self._tally.going:
            self._ask()

    def _check(self, head: bytes) -> None:
        if not head.lower().startswith(b"http/1.1 200"):
            self._tally.errors += 1

    def _ask(self) -> None:
        self._transport.write(self._request)


async def load(kind: str, port: int, connections: int, seconds: float) -> None:
    """Load a port for some time.

    Streams are opened before the time begins, which is told by a line on standard output;
    another line tells what came of it.
    """
    loop = asyncio.get_running_loop()
    tally = Tally()
    transports = []
    for number in range(connections):
        transport, _ = await loop.create_connection(
            functools.partial(Client, kind, tally, number), "127.0.0.1", port
        )
        transports.append(transport)
    while kind not in ANSWERED and tally.streams < connections and not tally.errors:
        await asyncio.sleep(0.05)
    tally.answers = tally.events = 0
    print("begun", flush=True)
    await asyncio.sleep(seconds)
    counted = {"answers": tally.answers, "events": tally.events, "errors": tally.errors}
    print(json.dumps(counted), flush=True)
    tally.going = False
    await loop.run_in_executor(None, sys.stdin.read)
    for transport in transports:
        transport.abort()


if __name__ == "__main__":
    run(load(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
