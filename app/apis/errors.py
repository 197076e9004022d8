"""Errors of ours, in OpenAI's form."""

import json

from app.apis.context import KIND


def error_json(status: int, kind: str, message: str) -> bytes:
    """Write an error: its `type` is of OpenAI's kind, its `code` the status.

    That a prompt is too long is a code of its own, by which clients know it.
    """
    error: dict[str, object] = {"message": message, "type": kind, "code": status}
    if kind == KIND:
        error |= {"type": "invalid_request_error", "code": KIND}
    return json.dumps({"error": error}).encode()
