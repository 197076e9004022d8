"""Errors of ours, in the form that OpenAI's API gives them."""

import json


def error_json(status: int, kind: str, message: str) -> bytes:
    """Write an error: its `type` is of OpenAI's kind, its `code` the status."""
    return json.dumps({"error": {"message": message, "type": kind, "code": status}}).encode()
