"""Bodies of requests to control endpoints that hold a JSON object."""

from typing import Any, Final

from fastapi import Request

from app.settings.variables import read_json

LONGEST: Final = 1_048_576
"""Longest body that is read, in bytes."""


class BadBody(Exception):
    """A body holds no object, or is too long; `status` is that of the response."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


async def json_body(request: Request) -> dict[str, Any]:
    """Read a JSON object; a key that is there twice is a mistake.

    Raises:
        BadBody: it is something else, or too long.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST:
            raise BadBody(413, f"the body is longer than {LONGEST} bytes")
    try:
        told = read_json(body.decode("utf-8-sig"), secret=True)
    except UnicodeDecodeError:
        raise BadBody(400, "the body is no UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise BadBody(400, f"the body {error}") from None
    if not isinstance(told, dict):
        raise BadBody(400, "the body is no JSON object")
    return told
