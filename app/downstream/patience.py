"""How long a client is waited for, and how much it may send before its request begins."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.downstream.connection import ClientProtocol

HEAD_LIMIT = 64 * 1024
"""Longest head of a request, or trailers, in bytes, for whose end we wait."""


class Patience:
    """What is known of a client that we may be waiting for; times are the loop's, in seconds.

    No timer is set and cancelled with each request: somebody calls `check` now and then.
    """

    __slots__ = ("_halted_since", "_unparsed", "_unsent", "_waits_since", "moved")

    def __init__(self, now: float) -> None:
        self._waits_since: float | None = now
        """Since when we wait for a request, or for more of one."""
        self._halted_since: float | None = None
        """Since when the client has taken nothing of what it should."""
        self._unsent = 0
        """How many bytes wait for it then."""
        self.moved = False
        """Whether a head came to its end, or a piece of a body came."""
        self._unparsed = 0
        """How many bytes came since."""

    def wait(self, now: float) -> None:
        """Wait from now on."""
        self._waits_since = now

    def rest(self) -> None:
        """Wait for nothing."""
        self._waits_since = None

    def halt(self, now: float, unsent: int) -> None:
        """Take notice that so many bytes are more than the client takes at once."""
        self._halted_since, self._unsent = now, unsent

    def resume(self) -> None:
        """Take notice that it has caught up."""
        self._halted_since = None

    def hear(self, client: "ClientProtocol", size: int) -> None:
        """Take notice of so many bytes with which no request could begin."""
        if not self.moved:
            self._unparsed += size
            if self._unparsed > HEAD_LIMIT:
                client.refuse(431, f"the head is longer than {HEAD_LIMIT} bytes")
            return
        self.moved, self._unparsed = False, 0
        cycle = client.cycle
        if not cycle.response_complete:
            self._waits_since = client.loop.time() if cycle.more_body else None

    def check(
        self, client: "ClientProtocol", now: float, *, keep_alive: float, silence: float
    ) -> None:
        """End what has come to a standstill.

        The head of a request may take `keep_alive` seconds from the end of the answer before.
        For more of its body, or until the client takes more of the answer, we wait `silence`
        seconds: somebody else could be served in that time.
        """
        since, cycle = self._waits_since, client.cycle
        if since is not None:
            if cycle is None or not cycle.more_body or cycle.response_complete:
                if now - since > keep_alive:
                    client.transport.close()
            elif client.flow.read_paused or cycle.waiting_for_100_continue:
                self._waits_since = now  # we are the ones who do not read
            elif now - since > silence:
                client.refuse(408, f"nothing more of the body came within {silence:g} s")
        if self._halted_since is not None:
            unsent = client.transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent, self._halted_since = unsent, now
            elif now - self._halted_since > silence:
                client.transport.abort()  # to close would be to wait for the client
