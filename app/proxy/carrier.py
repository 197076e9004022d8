"""What a request says to a server, and over which connections it goes."""

from collections.abc import Mapping

from app.downstream.forwarded import Origin
from app.proxy.exchange import Exchange
from app.proxy.headers import peer_of, request_head
from app.proxy.loops import HOPS, Loops
from app.upstream.errors import Stale, Unheard
from app.upstream.pool import Pool

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""Methods that may be repeated (RFC 9110 section 9.2.2)."""


class Carrier:
    """Carries requests to servers, by name; all methods raise `UpstreamError`."""

    def __init__(self, pools: Mapping[str, Pool], origin: Origin) -> None:
        self.pools = pools
        self.loops = Loops(tuple(pools))
        self._origin = origin

    def head(
        self, exchange: Exchange, pool: Pool, length: bytes | None, upgrade: bytes | None = None
    ) -> bytes:
        """Write the head of a request, in our words where they must be (`request_head`)."""
        scope, fields = exchange.scope, exchange.fields
        peer = peer_of(scope)
        chain = peer
        if b"x-forwarded-for" in fields and self._origin.trusts(peer):
            chain = f"{fields[b'x-forwarded-for'].decode('latin-1')}, {peer}"
        query = scope["query_string"]
        return request_head(
            scope["method"],
            scope["raw_path"] + b"?" + query if query else scope["raw_path"],
            scope["headers"],
            authority=pool.authority,
            forwarded=b"x-forwarded-for: %b\r\nx-forwarded-host: %b\r\n"
            b"x-forwarded-proto: %b\r\nx-request-id: %b\r\n%b"
            % (
                chain.encode("latin-1"),
                fields.get(b"host", b""),
                scope["scheme"].encode(),
                exchange.record.id.encode(),
                self.loops.mark(exchange.record.server, fields.get(HOPS)),
            ),
            length=length,
            upgrade=upgrade,
        )

    async def carry(
        self, exchange: Exchange, server: str, body: bytes, length: bytes | None
    ) -> None:
        """Carry a request whose body is at hand.

        It is repeated once, over a fresh connection, where a kept one was closed before the
        server could see it; one that may be repeated, wherever a kept one gave no response.
        """
        pool = self.pools[server]
        head = self.head(exchange, pool, length)
        repeatable = exchange.scope["method"] in IDEMPOTENT
        if not exchange.repeats:
            try:
                await exchange.run(pool, head, body, repeatable=repeatable)
                return
            except Stale:
                exchange.repeats = True
            except Unheard:
                if not repeatable:
                    raise
                exchange.repeats = True
        await exchange.run(pool, head, body, fresh=True)

    async def forward(self, exchange: Exchange, server: str) -> None:
        """Carry a request as it is, its body streamed."""
        fields = exchange.fields
        chunked = b"transfer-encoding" in fields
        length = b"chunked" if chunked else fields.get(b"content-length")
        bodiless = length is None or length == b"0"
        upgrade = bodiless and fields.get(b"upgrade", b"").lower() == b"websocket"
        if bodiless and not upgrade and exchange.scope["method"] in IDEMPOTENT:
            await self.carry(exchange, server, b"", length)
            return
        # What is sent now may not be sent twice, so it may not meet a stale connection.
        pool = self.pools[server]
        if upgrade:
            head = self.head(exchange, pool, None, upgrade=b"websocket")
            await exchange.run(pool, head, b"", fresh=True, upgrade=True)
        else:
            head = self.head(exchange, pool, length)
            body = b"" if bodiless else None
            await exchange.run(pool, head, body, fresh=True, chunked=chunked)
