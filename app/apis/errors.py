"""Errors of ours, in OpenAI's form."""

import json


def error_json(status: int, kind: str, message: str) -> bytes:
    """Write an error: its `type` is of OpenAI's kind, its `code` the status."""
    return json.dumps({"error": {"message": message, "type": kind, "code": status}}).encode()
