"""Whatever comes over a connection, in whatever pieces, it is served or refused, and no more."""

import asyncio
import itertools
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.downstream.connection import ClientConnection, Request
from app.downstream.connections import Connections

STATUS = re.compile(rb"HTTP/1\.1 (\d+) ")


class Loop:
    """Time stands still, and what shall run soon runs when it is told to."""

    def __init__(self) -> None:
        self._soon: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def time(self) -> float:
        return 1000.0

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        self._soon.append((callback, arguments))

    def call_later(self, _: float, *__: object) -> SimpleNamespace:
        return SimpleNamespace(cancel=lambda: None)

    def run(self) -> None:
        while self._soon:
            callback, arguments = self._soon.pop(0)
            callback(*arguments)


class Transport(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.1", 1)})
        self.written = b""
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None: ...

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Say that somebody else has it: then nobody waits for what a client still sends."""
        return asyncio.Protocol()


class Echo:
    """Responds with what was asked, as soon as all of it has come."""

    def __init__(self, request: Request, client: ClientConnection) -> None:
        self._request = request
        self._client = client
        self._body = b""

    def on_body(self, data: bytes, *, complete: bool) -> None:
        self._body += data
        if complete:
            told = b"%b %b %b" % (self._request.method.encode(), self._request.raw_path, self._body)
            self._client.respond(200, [], told)

    def on_writable(self) -> None: ...
    def on_client_gone(self) -> None: ...
    def on_shutdown(self) -> None: ...


def answers(pieces: list[bytes]) -> bytes:
    """Feed a connection, and return what it writes."""
    loop, transport = Loop(), Transport()
    state = SimpleNamespace(connections=set(), tasks=set(), total_requests=0)
    made: Any = ClientConnection
    connection = made(Echo, Connections(), None, state, {}, loop)
    connection.connection_made(transport)
    for piece in pieces:
        if transport.closing:
            break
        connection.data_received(piece)
        loop.run()
    connection.connection_lost(None)
    return transport.written


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if end > start]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Write a request that is as RFC 9112 has it."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE"]))
    target = b"/" + draw(st.from_regex(rb"[a-z0-9%._~-]{0,20}", fullmatch=True))
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: b"]
    for number in range(draw(st.integers(0, 4))):
        value = draw(st.from_regex(rb"[!-~]?[ -~\t\x80-\xff]{0,30}", fullmatch=True))
        lines.append(b"x-%d: %b" % (number, value))
    body = draw(st.binary(max_size=60)) if method != b"GET" else b""
    if draw(st.booleans()) and body:
        size = draw(st.integers(1, len(body)))
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        lines.append(b"Transfer-Encoding: chunked")
    elif body or draw(st.booleans()):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


@settings(deadline=None)
@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0, 5000), max_size=12))
def test_requests_are_answered_alike_however_they_are_cut(
    sent: list[bytes], cuts: list[int]
) -> None:
    whole = answers(sent)

    assert STATUS.findall(whole) == [b"200"] * len(sent)
    assert answers(cut(b"".join(sent), cuts)) == whole


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            requests(),
            st.binary(max_size=80),
            st.sampled_from(
                [
                    b"GET / HTTP/1.1\r\nhost: b\r\n\r\n",
                    b"POST /x HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n",
                    b"content-length: 5\r\ncontent-length: 6\r\n",
                    b"ffffffffffffffff\r\n",
                    b"upgrade: h2c\r\nconnection: upgrade\r\n",
                    b"expect: 100-continue\r\n\r\n",
                    b"\r\n",
                    b"\n",
                    b"\x00",
                ]
            ),
        ),
        max_size=8,
    ),
    st.lists(st.integers(0, 5000), max_size=12),
)
def test_nothing_that_comes_makes_a_connection_fail(sent: list[bytes], cuts: list[int]) -> None:
    written = answers(cut(b"".join(sent), cuts))

    assert {int(status) for status in STATUS.findall(written)} <= {
        200,
        400,
        408,
        413,
        431,
        501,
        505,
    }
