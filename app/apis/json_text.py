"""Where the members of a JSON object, and the elements of an array, stand in its text."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Final


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


scan: Final = json.JSONDecoder(parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]
_Match = Callable[..., re.Match[str] | None]
_open: Final[_Match] = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*(\}?)").match
_name: Final[_Match] = re.compile(
    r'[ \t\n\r]*"((?:[^"\\\x00-\x1f]|\\.)*)"[ \t\n\r]*:[ \t\n\r]*'
).match
_open_list: Final[_Match] = re.compile(r"[ \t\n\r]*\[[ \t\n\r]*(\]?)").match
_next: Final[_Match] = re.compile(r"[ \t\n\r]*([,\]])[ \t\n\r]*").match
_comma: Final[_Match] = re.compile(r"[ \t\n\r]*([,}])").match


def elements(text: str) -> Iterator[tuple[int, int]]:
    """Walk over the elements of an array: start and end.

    Raises:
        ValueError: what was walked over is no JSON.
    """
    step = _open_list(text)
    while step is not None and step[1] != "]":
        start = step.end()
        end = _end(text, start)
        yield start, end
        step = _next(text, end)
    if step is None:
        raise ValueError("the array has no end")


def members(text: str) -> Iterator[tuple[str, int, int]]:
    """Walk over the members of an object: name, start and end.

    Raises:
        ValueError: what was walked over is no JSON.
    """
    step = _open(text)
    while step is not None and step[1] != "}":
        step = _name(text, step.end())
        if step is None:
            raise ValueError("a member has no name")
        name = json.loads(f'"{step[1]}"') if "\\" in step[1] else step[1]
        start = step.end()
        end = _end(text, start)
        yield name, start, end
        step = _comma(text, end)
    if step is None:
        raise ValueError("the object has no end")


def byte_members(text: str, at: int = 0) -> Iterator[tuple[str, int, int]]:
    """Walk over the members of an object that begins there: name, start and end, in bytes.

    Raises:
        ValueError: what was walked over is no JSON.
    """
    done = 0
    for name, start, end in members(text):
        at += len(text[done:start].encode())
        begins = at
        at += len(text[start:end].encode())
        done = end
        yield name, begins, at


def _end(text: str, start: int) -> int:
    """Find the end of the value that begins there."""
    try:
        end: int = scan(text, start)[1]
    except StopIteration:
        raise ValueError(f"no value at character {start}") from None
    return end
