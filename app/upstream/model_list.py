"""The list of a server's models, as OpenAI's API writes it."""

import json
from collections.abc import Mapping

from app.routing.patterns import NAME_LIMIT


def model_list(body: bytes) -> dict[str, Mapping[str, object]] | None:
    """Read a model list as OpenAI's API writes it, by name; None where it is none."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    data = told.get("data") if isinstance(told, dict) else None
    if not isinstance(data, list):
        return None
    found: dict[str, Mapping[str, object]] = {}
    for model in data:
        if isinstance(model, dict) and isinstance(name := model.get("id"), str) and _is_name(name):
            found.setdefault(name, model)
    return found


def _is_name(text: str) -> bool:
    """Whether a name can be asked for, logged and shown: half a surrogate pair cannot."""
    return 0 < len(text) <= NAME_LIMIT and text.isprintable()
