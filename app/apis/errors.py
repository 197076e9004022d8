"""Errors of ours, in the form that a client understands."""

import json


def error_json(status: int, kind: str, message: str) -> bytes:
    """Write an error: its `type` is of OpenAI's kind, its `code` the status."""
    return json.dumps({"error": {"message": message, "type": kind, "code": status}}).encode()


def error_text(message: str) -> bytes:
    """Write an error as Ollama's own API does."""
    return json.dumps({"error": message}).encode()
