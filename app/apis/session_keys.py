"""By what clients tell one conversation, or one of their users, from another."""

from collections.abc import Callable, Mapping
from typing import Final

HEADERS: Final[tuple[bytes, ...]] = (
    b"x-openwebui-chat-id",
    b"x-claude-code-session-id",
    b"session-id",
    b"x-session-id",
)
"""Of conversations: Open WebUI's, Claude Code's, Codex's, and one that many write."""

MEMBERS: Final[tuple[str, ...]] = ("prompt_cache_key", "user")
"""Of a body (https://platform.openai.com/docs/api-reference/chat/create)."""

USER: Final = b"x-openwebui-user-id"
"""Of a user, where nothing says more."""

LONGEST: Final = 128
"""How much of it is looked at, in characters."""


def session_key(fields: Mapping[bytes, bytes], get: Callable[[str], object]) -> str:
    """Return what a client calls the conversation; empty where it says nothing.

    `fields` are the request's headers; `get` reads a member of its body.
    """
    for header in HEADERS:
        if header in fields and (found := _plain(fields[header].decode("latin-1"))):
            return found
    for member in MEMBERS:
        value = get(member)
        if isinstance(value, str) and (found := _plain(value)):
            return found
    return _plain(fields[USER].decode("latin-1")) if USER in fields else ""


def _plain(text: str) -> str:
    """Shorten a text; empty where it could not be logged as it is."""
    text = text[:LONGEST].strip()
    return text if text.isprintable() else ""
