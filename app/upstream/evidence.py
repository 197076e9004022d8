"""What the system knows of a connection that the event loop has not told us yet."""

import asyncio
import select
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

Watch = Callable[[int], list[tuple[int, int]]]
"""Waits so many milliseconds for something to read; gives what `poll` does."""

_ACKED: Final = struct.Struct("=Q")
_ACKED_AT: Final = 120
"""Where `struct tcp_info` holds `tcpi_bytes_acked` (linux/tcp.h, since Linux 4.2)."""


def watch(transport: asyncio.BaseTransport) -> Watch:
    """Make what tells whether bytes, or the end of the stream, wait to be read at a socket.

    A connection without a request has neither, unless the server has closed it. On Windows,
    where sockets cannot be polled, nothing is ever seen to wait.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(select, "poll"):
        return lambda _: []
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return poll.poll


def unread(transport: asyncio.BaseTransport, before: int) -> bool:
    """Whether a server that has closed its half cannot have seen the last request.

    A segment that ends a stream acknowledges all that came before it (RFC 9293 section
    3.10.7.4): if of all that we wrote on the connection only the `before` first bytes were
    acknowledged by then, the request came after the server had closed. A reset proves
    nothing, since it may overtake an acknowledgement. Without Linux there is no proof.
    """
    if sys.platform != "linux" or transport.get_extra_info("sslcontext") is not None:
        return False
    sock = transport.get_extra_info("socket")
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return False
    if len(told) < _ACKED_AT + _ACKED.size:
        return False
    # The handshake's own number counts as one byte (section 3.4).
    acknowledged: int = _ACKED.unpack_from(told, _ACKED_AT)[0]
    return acknowledged <= before + 1
