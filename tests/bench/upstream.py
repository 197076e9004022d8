"""The modelled upstream of the benchmark: answers at once, and streams at a pace.

    python -m tests.bench.upstream PORT [llama.cpp]

With the second word it has the pages of llama.cpp's server, and of an agent.

It is written for speed, not as an example: it must not be what limits a proxy.
"""

import asyncio
import functools
import json
import random
import re
import sys
from collections.abc import Mapping
from typing import cast

from tests.bench.loop import run

PACE = 0.02
"""Seconds between two events of a stream."""

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A response of the usual length."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17},
    }
).encode()


def ok(body: bytes) -> bytes:
    """Write a response that has some JSON."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


JSON_ANSWER = ok(ANSWER)
MODELS_ANSWER = ok(b'{"object":"list","data":[{"id":"bench","object":"model"}]}')
LLAMA_CPP = {
    b"/llmhealth": ok(b'{"status":"idle","gpu_util_max5s":0.0}'),
    b"/props": ok(b'{"total_slots":4,"endpoint_slots":true,"build_info":"b10800-1"}'),
    b"/slots": ok(b"[%b]" % b",".join(b'{"id":%d,"is_processing":false}' % n for n in range(4))),
}
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
)
STREAMED = re.compile(rb'"stream": ?true')  # some proxies write the body anew
SILENT = re.compile(rb'"pace": ?0[,}]')
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


class Upstream(asyncio.Protocol):
    """One connection. A body that asks for a stream gets events until it hangs up.

    `"pace": 0` in the body asks for one event and then silence.
    """

    def __init__(self, pages: Mapping[bytes, bytes]) -> None:
        self._pages = pages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get"):
            self._write(self._pages.get(head.split()[1], MODELS_ANSWER))
        elif not STREAMED.search(body):
            self._write(JSON_ANSWER)
        else:
            self._write(STREAM_HEAD + CHUNK)
            if not SILENT.search(body):
                self._later(PACE * random.random())

    def _later(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._event)

    def _event(self) -> None:
        self._write(CHUNK)
        self._later(PACE)

    def _write(self, data: bytes) -> None:
        self._transport.write(data)


async def serve(port: int, pages: Mapping[bytes, bytes]) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    upstream = functools.partial(Upstream, pages)
    server = await loop.create_server(upstream, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    run(serve(int(sys.argv[1]), LLAMA_CPP if "llama.cpp" in sys.argv else {}))
