"""Who sends fast takes turns with the others."""

import asyncio

import pytest

from app.downstream.lingering_close import LingeringClose
from app.downstream.reading import TURN

pytestmark = pytest.mark.anyio


class Transport(asyncio.Transport):
    """Tells whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...
    def write_eof(self) -> None: ...
    def abort(self) -> None: ...


@pytest.mark.parametrize(("size", "reads"), [(TURN - 1, True), (TURN, False)])
async def test_after_much_at_once_nothing_is_read_until_the_others_had_their_turn(
    size: int, reads: bool
) -> None:
    transport = Transport()
    protocol = LingeringClose(transport, asyncio.Protocol())
    protocol.data_received(bytes(size))
    assert transport.reads == reads

    await asyncio.sleep(0)

    assert transport.reads
    protocol.connection_lost(None)
