"""Lines of system prompts that are new in every request, so that no cache would hold the prompt.

They mean nothing to a server of one's own, and are taken out.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

from app.apis.json_text import elements, members
from app.apis.structure import is_too_much

KNOWN: Final = ("x-anthropic-billing-header:",)
"""How the lines begin that are known to change.

Claude Code's has `cc_version=…; cc_entrypoint=…; cch=…;`, the last one new in every request. It
stands in front, as a block of its own or as the first line of a text, and its own switch is
CLAUDE_CODE_ATTRIBUTION_HEADER=0: https://code.claude.com/docs/en/env-vars
"""

HOME: Final = b"api.anthropic.com"
"""The host that the lines are meant for: it gets what came."""

_MARKS: Final = tuple(mark.encode() for mark in KNOWN)
_FIRST_LINE: Final = re.compile(r'"((?:[^"\\]|\\[^n])*)(\\n|")')
"""A JSON text up to the end of its first line."""

_SYSTEM: Final = ("system", "developer")

Edit = tuple[int, int]
"""A part of a body, such as what is taken out, from one character to another."""


def untouched(raw: bytes, _client: str) -> bytes:
    """Leave a body as it is."""
    return raw


def known(raw: bytes, _client: str = "") -> bytes:
    """Take the known lines out of a body's system prompt; every other byte stays as it is.

    What is no chat in JSON stays as it is, too.
    """
    for mark in _MARKS:
        if raw.find(mark) >= 0:  # `in` takes longer
            break
    else:
        return raw
    if is_too_much(raw):
        return raw
    try:
        text = raw.decode()
        edits = [*_body(text)]
    except (ValueError, RecursionError):
        return raw
    for start, end in sorted(edits, reverse=True):
        text = text[:start] + text[end:]
    return text.encode() if edits else raw


def _body(text: str) -> Iterator[Edit]:
    for name, start, end in members(text):
        if name in ("system", "instructions"):
            yield from _shifted(_content(text[start:end]), start)
        elif name in ("messages", "input") and text[start] == "[":
            for first, last in elements(text[start:end]):
                message = text[start + first : start + last]
                yield from _shifted(_message(message), start + first)


def _message(text: str) -> Iterator[Edit]:
    place = system_content(text)
    if place is not None:
        yield from _shifted(_content(_cut(text, place)), place[0])


def system_content(message: str) -> Edit | None:
    """Find the content of a message, as it stands in a body, if the message is the system's."""
    if message[:1] != "{":
        return None
    found = {name: (start, end) for name, start, end in members(message)}
    role = found.get("role")
    if role is None or json.loads(_cut(message, role)) not in _SYSTEM:
        return None
    return found.get("content")


def _content(text: str) -> Iterator[Edit]:
    """Find the line in a content: a text, or blocks."""
    if text[:1] == '"':
        line = _line(text)
        if line is not None:
            yield line
    elif text[:1] == "[":
        blocks = [*elements(text)]
        for number, (start, end) in enumerate(blocks):
            block = text[start:end]
            line = _line_of_block(block)
            if line is None:
                continue
            if line != (0, len(block)):
                yield start + line[0], start + line[1]
            elif number + 1 < len(blocks):
                yield start, blocks[number + 1][0]
            else:
                yield (blocks[number - 1][1] if number else start), end


def _line_of_block(text: str) -> Edit | None:
    """Find the line in a block; the whole block where it holds nothing else."""
    if text[:1] != "{":
        return None
    for name, start, end in members(text):
        if name == "text" and (line := _line(text[start:end])) is not None:
            if line[1] == end - start - 1:
                return 0, len(text)
            return start + line[0], start + line[1]
    return None


def _line(text: str) -> Edit | None:
    """Find the line in a JSON text, its end included; None where the text begins otherwise."""
    match = _FIRST_LINE.match(text)
    if match is None or not match[1].startswith(KNOWN):
        return None
    return match.start(1), match.end() if match[2] != '"' else match.end(1)


def _cut(text: str, place: Edit) -> str:
    return text[place[0] : place[1]]


def _shifted(edits: Iterator[Edit], by: int) -> Iterator[Edit]:
    for start, end in edits:
        yield start + by, end + by
