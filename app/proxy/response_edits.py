"""What is changed in a response on its way to the client."""

from typing import Final

from app.apis.asked_name import AskedName
from app.apis.unasked_usage import UnaskedUsage
from app.proxy.headers import editable
from app.proxy.sse import content_type
from app.upstream.connection import Head

WHOLE_LIMIT: Final = 1024 * 1024
"""How much of a response is read before it is passed on, so that it can be changed, in bytes."""

JSON: Final = b"application/json"


class ResponseEdits:
    """The asked name is written in, where the server got another; what was not asked for goes."""

    __slots__ = ("_name", "_usage")

    def __init__(self) -> None:
        self._name: AskedName | None = None
        self._usage: UnaskedUsage | None = None

    def expect(self, name: str | None, *, usage: bool) -> None:
        """Say what the next response is to be changed in: another is asked for each time."""
        self._name = None if name is None else AskedName(name)
        self._usage = UnaskedUsage() if usage else None

    def needs_whole(self, head: Head, body: bytes) -> bool:
        """Whether all of a response must be there before it can be changed."""
        if self._name is None:
            return False
        length = dict(head.headers).get(b"content-length", b"")
        return (
            head.status == 200
            and content_type(head).startswith(JSON)
            and len(body) <= WHOLE_LIMIT
            and (not length.isdigit() or int(length) <= WHOLE_LIMIT)
        )

    def begin(self, head: Head, body: bytes, *, streams: bool, complete: bool) -> bytes:
        """Change the beginning of a response, where that can be done."""
        if self._name is None and self._usage is None:
            return body
        possible = head.status == 200 and editable(head.headers, whole=complete)
        if streams and possible:
            return self.piece(body, last=complete)
        name, self._name, self._usage = self._name, None, None
        if name is not None and complete and possible and content_type(head).startswith(JSON):
            return name.whole(body)
        return body

    def piece(self, body: bytes, *, last: bool = False) -> bytes:
        """Change a piece of a stream."""
        if self._usage is not None:
            body = self._usage.piece(body, last=last)
        if self._name is not None:
            body = self._name.piece(body, last=last)
        return body
