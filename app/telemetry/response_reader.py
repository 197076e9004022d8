"""What operators want to know of a response, read off its bytes while they pass."""

from time import monotonic
from typing import Final

from app.apis.first_tokens import has_token
from app.apis.usage import CHARACTERS, Usage, read_seconds, read_usage
from app.routing.observations import MEASURABLE
from app.telemetry.instrument import Series

GAPS: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.4, 0.8, 2, 5, 10)
"""Edges between the pauses between two tokens, in seconds."""

TAIL_PIECES: Final = 4
"""How many of the last pieces are kept: the usage, the end mark, and what was cut in two."""

EVENT: Final = (b"data:", b"event:")
"""How a piece begins that carries an event; Anthropic's API and OpenAI's responses name theirs."""

LINE: Final = b"{"
"""How a piece begins that carries one of the lines of JSON that Ollama's own API streams."""

EVENT_LIMIT: Final = 64 * 1024
"""Longest event before the first token that is read, in bytes."""


class ResponseReader:
    """Follows one response. It sees every piece, and holds none of them back.

    The first token of an event stream is the first text, reasoning or tool call that is not
    empty, not the first event: some servers begin with a role, or with a comment.
    """

    __slots__ = (
        "_heard",
        "_lines",
        "_opening",
        "_unread",
        "_usage",
        "first_token",
        "gaps",
        "longest_gap",
        "reading_seconds",
        "size",
        "streams",
        "tail",
    )

    def __init__(self, *, streams: bool, lines: bool = False) -> None:
        self.streams = streams
        self._lines = lines
        self.size = 0
        """In bytes."""
        self.tail: list[bytes] = []
        """The last pieces, at whose end the usage stands."""
        self.first_token: float | None = None
        """On the monotonic clock."""
        self.reading_seconds: float | None = None
        """How long the server read the prompt, if it is no stream and tells, once it has ended."""
        self.gaps: Series | None = None
        """Seconds between one piece and the next, from the first token on; comments are none."""
        self.longest_gap = 0.0
        self._heard = 0.0
        self._unread = self._opening = b""
        self._usage: Usage | None = None

    def passes(self, piece: bytes) -> None:
        """Take notice of a piece of the body."""
        self.size += len(piece)
        tail = self.tail
        tail.append(piece)
        if len(tail) > TAIL_PIECES:
            del tail[0]
        if not self.streams:
            return
        if self.gaps is None:
            self._look_for_token(piece)
        elif piece.startswith(LINE if self._lines else EVENT):
            now = monotonic()
            gap = now - self._heard
            self._heard = now
            self.gaps.observe(gap)
            if gap > self.longest_gap:
                self.longest_gap = gap

    def usage(self) -> Usage | None:
        """Return how many tokens it cost, once it has ended; None where it does not say."""
        if self.tail:
            tail = b"".join(self.tail)
            self._usage = usage = read_usage(tail, self._opening)
            if usage is not None and not self.streams and usage.read >= MEASURABLE:
                self.reading_seconds = read_seconds(tail)
            self.tail.clear()
        return self._usage

    def estimate(self) -> int:
        """Estimate how many tokens were generated: most servers send each in a piece."""
        if not self.streams:
            return self.size // CHARACTERS
        return 0 if self.gaps is None else 1 + sum(self.gaps.counts)

    def _look_for_token(self, piece: bytes) -> None:
        if b'"message_start"' in piece:
            self._opening = piece
        *lines, rest = (self._unread + piece).split(b"\n")
        self._unread = rest if len(rest) <= EVENT_LIMIT else b""
        if not self._lines:
            lines = [line[5:] for line in lines if line.startswith(b"data:")]
        if any(map(has_token, lines)):
            self.first_token = self._heard = monotonic()
            self.gaps = Series(GAPS)
            self._unread = b""
