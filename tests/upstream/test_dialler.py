"""Dialling by name: all its addresses, and those that it has now."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from app.upstream.fetch import fetch
from app.upstream.pool import Pool
from tests.fakes.sockets import Message, answering, listening, ok

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # uvloop does not ask Python's resolver, which these tests replace


def resolving(monkeypatch: pytest.MonkeyPatch, addresses: list[tuple[str, int]]) -> None:
    """Let every name lead to some addresses."""

    def resolve(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@contextlib.contextmanager
def black_hole() -> Iterator[tuple[str, int]]:
    """Give an address where attempts to connect are not answered: its backlog is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address: tuple[str, int] = listener.getsockname()
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address


async def get(pool: Pool) -> bytes:
    response = await fetch(pool, REQUEST, limit=1000, connect_timeout=5.0, silence=5.0)
    return response.body


async def test_a_dead_address_of_a_name_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening(answering(ok(b"alive"))) as port:
        with black_hole() as dead:
            resolving(monkeypatch, [dead, ("127.0.0.1", port)])
            pool = Pool("http://server.test")
            async with asyncio.timeout(3):
                assert await get(pool) == b"alive"
            pool.close()


async def test_a_name_that_leads_elsewhere_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[Message] = []
    async with (
        listening(answering(ok(b"old"), before)) as old,
        listening(answering(ok(b"new"))) as new,
    ):
        resolving(monkeypatch, [("127.0.0.1", old)])
        pool = Pool("http://server.test")
        assert [await get(pool), await get(pool)] == [b"old", b"old"]
        resolving(monkeypatch, [("127.0.0.1", new)])
        assert await get(pool) == b"old"  # over the kept connection

        monkeypatch.setattr("app.upstream.pool.RESOLVED", 0.0)

        assert await get(pool) == b"new"
        pool.close()
