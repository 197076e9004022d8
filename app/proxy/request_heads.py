"""The heads of requests to servers."""

from collections.abc import Collection
from typing import Final

from app.downstream.connection import ClientConnection, Request
from app.downstream.forwarded import Origin
from app.keys.key_ring import CREDENTIALS, SESSION
from app.proxy.headers import OURS, Headers, joined, request_head, without_cookie
from app.proxy.loops import HOPS, Loops
from app.telemetry.record import Trace
from app.upstream.pool import Pool

Fields = dict[bytes, bytes]
"""A request's headers; of one that came twice the last, but `X-Forwarded-For` as a whole."""


CLOSED: Final = OURS | CREDENTIALS
"""What a server does not get that is not told who its clients are."""


class RequestHeads:
    """Writes the heads of requests to servers, in our words where they must be."""

    def __init__(
        self, origin: Origin, loops: Loops, forwarding: Collection[str] | None = None
    ) -> None:
        """Take the names of the servers that get clients' credentials: all, for None."""
        self._origin = origin
        self._forwarding = forwarding
        self._loops = loops

    def write(
        self,
        request: Request,
        fields: Fields,
        client: ClientConnection,
        request_id: str,
        server: str,
        pool: Pool,
        *,
        length: bytes | None,
        upgrade: bytes | None = None,
        decoded: bool = False,
        trace: Trace | None = None,
    ) -> bytes:
        """Write a head; `length` and `upgrade` are those of `request_head`.

        `pool` is that of the server: its path goes before ours, and its headers in place of
        ours. Where the body is `decoded`, no header says that it is compressed. Of a `trace`
        the server's span is ours' child.
        """
        peer = client.peer
        chain = peer.encode()
        more = b""
        if _has_origins(fields) and self._origin.trusts(peer):
            if b"x-forwarded-for" in fields:
                chain = b"%b, %b" % (fields[b"x-forwarded-for"], chain)
            more = _other_origins(request.headers, fields, peer)
        headers = request.headers
        if b"cookie" in fields:
            headers = without_cookie(headers, SESSION)
        target = pool.prefix + request.raw_path
        drop = OURS if self._forwarding is None or server in self._forwarding else CLOSED
        if decoded:
            drop |= {b"content-encoding"}
        if trace is not None:
            drop |= {b"traceparent"}
            more += b"traceparent: %b\r\n" % trace.parent
        return request_head(
            request.method,
            target + b"?" + request.query if request.query else target,
            headers,
            authority=pool.authority,
            forwarded=b"x-forwarded-for: %b\r\nx-forwarded-host: %b\r\n"
            b"x-forwarded-proto: %b\r\nx-request-id: %b\r\n%b%b"
            % (
                chain,
                fields.get(b"host", b""),
                client.scheme.encode(),
                request_id.encode(),
                self._loops.mark(server, fields.get(HOPS)),
                more + pool.lines,
            ),
            length=length,
            upgrade=upgrade,
            drop=drop | pool.replaced if pool.replaced else drop,
        )


def _has_origins(fields: Fields) -> bool:
    """Whether a proxy may have named the client; only trusted ones are believed."""
    return b"x-forwarded-for" in fields or b"forwarded" in fields or b"x-real-ip" in fields


def _other_origins(headers: Headers, fields: Fields, peer: str) -> bytes:
    """Write the other headers in which a trusted proxy names the client (RFC 7239 section 4)."""
    lines = b""
    if b"forwarded" in fields:
        node = f'"[{peer}]"' if ":" in peer else peer
        lines += b"forwarded: %b, for=%b\r\n" % (joined(headers, b"forwarded"), node.encode())
    if b"x-real-ip" in fields:
        lines += b"x-real-ip: %b\r\n" % fields[b"x-real-ip"]
    return lines
