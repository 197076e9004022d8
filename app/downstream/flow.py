"""Whether a client's connection is read, and takes more bytes."""

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """uvicorn's, which has an event for each connection, at 0.8 KB: here a slow client's alone."""

    _taking: asyncio.Event | None = None

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False

    async def drain(self) -> None:
        """Wait until the client takes more bytes."""
        if self._taking is not None:
            await self._taking.wait()

    def pause_writing(self) -> None:
        """Note that the client takes bytes more slowly than they are sent."""
        if not self.write_paused:
            self.write_paused = True
            self._taking = asyncio.Event()

    def resume_writing(self) -> None:
        """Note that it has caught up."""
        if self._taking is not None:
            self.write_paused = False
            self._taking.set()
            self._taking = None
