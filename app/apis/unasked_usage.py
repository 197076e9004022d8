"""The usage at the end of a stream, for clients that have not asked for it.

OpenAI's streams have it in an event of its own, and only where `stream_options` asks for it:
https://platform.openai.com/docs/api-reference/chat/create#chat_create-stream_options
"""

from typing import Final

import orjson

from app.apis.whole_lines import WholeLines

OPTIONS: Final = "stream_options"


def asking(options: object) -> dict[str, object] | None:
    """Return `stream_options` that ask for the usage; None where those given do, or are none."""
    if options is None:
        return {"include_usage": True}
    if not isinstance(options, dict) or options.get("include_usage") is True:
        return None
    return {**options, "include_usage": True}


class UnaskedUsage:
    """Takes the event of the usage out of one stream; every other byte stays."""

    __slots__ = ("_lines", "_taken")

    def __init__(self) -> None:
        self._lines = WholeLines()
        self._taken = False
        """Whether the line before was taken out: then the empty one goes as well that ends it."""

    def piece(self, data: bytes, *, last: bool = False) -> bytes:
        """Take it out of a piece, as far as its lines are whole; keep the rest."""
        data = self._lines.take(data, last=last)
        if not self._taken and b'"usage"' not in data:
            return data
        return b"".join([line for line in data.splitlines(keepends=True) if self._stays(line)])

    def _stays(self, line: bytes) -> bool:
        if self._taken and line in (b"\n", b"\r\n"):
            self._taken = False
            return False
        self._taken = line.startswith(b"data:") and b'"usage"' in line and _is_usage(line[5:])
        return not self._taken


def _is_usage(event: bytes) -> bool:
    try:
        told = orjson.loads(event)
    except orjson.JSONDecodeError:
        return False
    return isinstance(told, dict) and told.get("choices") == [] and bool(told.get("usage"))
