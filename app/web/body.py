"""A request's JSON body, read once and edited in place."""

import json
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

DEPTH_LIMIT = 200
"""Deepest nesting of a body. The parser of Python 3.11 gives up at about a thousand."""


class BadRequest(ValueError):
    """The body cannot be routed; the message is for the client."""


class Member(NamedTuple):
    """A member of the body's top-level object: its value, and where that stands in the text."""

    value: object
    start: int
    end: int


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_scan = json.JSONDecoder(parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]
_Match = Callable[..., re.Match[str] | None]
_open: _Match = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*(\}?)").match
_name: _Match = re.compile(r'[ \t\n\r]*"((?:[^"\\\x00-\x1f]|\\.)*)"[ \t\n\r]*:[ \t\n\r]*').match
_comma: _Match = re.compile(r"[ \t\n\r]*([,}])").match
_space = cast("Callable[..., re.Match[str]]", re.compile(r"[ \t\n\r]*").match)


class Body:
    """A JSON object, and edits of its members that leave every other byte as it was."""

    def __init__(self, raw: bytes) -> None:
        """Read a body.

        Raises:
            BadRequest: it is not a JSON object in UTF-8 (RFC 8259 sections 4 and 8.1), names a
                member twice, or nests deeper than 200 levels.
        """
        self.raw = raw
        try:
            self._text = raw.decode()
            self._members, self._end = _members(self._text)
        except UnicodeDecodeError:
            raise BadRequest("the body is not UTF-8") from None
        except RecursionError:
            raise BadRequest(f"the body nests deeper than {DEPTH_LIMIT} levels") from None
        except (StopIteration, IndexError):
            raise BadRequest("the body is not a JSON object: it ends early") from None
        except ValueError as error:
            raise BadRequest(f"the body is not a JSON object: {error}") from None
        if raw.count(b"[") + raw.count(b"{") > DEPTH_LIMIT and self._too_deep():
            raise BadRequest(f"the body nests deeper than {DEPTH_LIMIT} levels")

    def get(self, name: str) -> object:
        """Read a member's value; None where there is none."""
        member = self._members.get(name)
        return None if member is None else member.value

    def edited(self, changes: Mapping[str, object]) -> bytes:
        """Give the body with some members set; unchanged bytes where nothing changes."""
        changes = {k: v for k, v in changes.items() if k not in self or self.get(k) != v}
        if not changes:
            return self.raw
        edits = []
        added = []
        for name, value in changes.items():
            written = json.dumps(value, ensure_ascii=False)
            member = self._members.get(name)
            if member is not None:
                edits.append((member.start, member.end, written))
            else:
                added.append(f"{json.dumps(name)}:{written}")
        if added:
            separator = "," if self._members else ""
            edits.append((self._end, self._end, separator + ",".join(added)))
        text = self._text
        for start, end, written in sorted(edits, reverse=True):
            text = text[:start] + written + text[end:]
        return text.encode()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def _too_deep(self) -> bool:
        level: list[object] = [member.value for member in self._members.values()]
        for _ in range(1, DEPTH_LIMIT):
            level = [
                child
                for value in level
                if isinstance(value, dict | list)
                for child in (value.values() if isinstance(value, dict) else value)
            ]
            if not level:
                return False
        return any(isinstance(value, dict | list) for value in level)


def _members(text: str) -> tuple[dict[str, Member], int]:
    """Walk the members of an object; also tell where its closing brace stands."""
    found: dict[str, Member] = {}
    step = _open(text)
    if step is None:
        raise ValueError("it does not begin with a brace")
    at = step.end()
    if step[1]:
        _nothing_after(text, at)
        return found, at - 1
    while True:
        step = _name(text, at)
        if step is None:
            raise ValueError(f"a name and a colon are missing at character {at}")
        name, start = step[1], step.end()
        if "\\" in name:
            name = json.loads(f'"{name}"')
        value, end = _scan(text, start)
        if name in found:
            raise ValueError(f"{json.dumps(name[:40])} stands there twice")
        found[name] = Member(value, start, end)
        step = _comma(text, end)
        if step is None:
            raise ValueError(f"a comma is missing at character {end}")
        at = step.end()
        if step[1] == "}":
            _nothing_after(text, at)
            return found, at - 1


def _nothing_after(text: str, at: int) -> None:
    if _space(text, at).end() != len(text):
        raise ValueError("more follows the closing brace")
