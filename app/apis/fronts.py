"""How the system text of each conversation was at first, to which its later requests are held.

A clock in the system text makes a new prompt of every request, so that no cache holds it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from app.apis.json_text import elements, members
from app.apis.stable_prompts import Edit, known, system_content
from app.apis.structure import LARGE, is_too_much
from app.routing.prompt_change import common_ends

SPAN: Final = 200
"""Longest text that is held to what it was, in characters of JSON."""

LIFETIME: Final = 600.0
"""For how long it is held, in seconds: a clock may be wrong by as much."""

CONVERSATIONS: Final = 512
"""How many conversations are remembered."""

LONGEST: Final = 256 * 1024
"""Longest system text that is remembered, in characters."""

ROOM: Final = 16 * 1024 * 1024
"""How much of system texts is remembered in all, in characters."""

Noticed = Callable[[str, int, int], None]
"""Is told of a client's conversation: in which text it differs, and at which character."""


@dataclass(slots=True)
class Front:
    """The system texts of a conversation's first request."""

    texts: list[str]
    since: float
    told: bool = False

    @property
    def size(self) -> int:
        """How many characters they have."""
        return sum(map(len, self.texts))


class Fronts:
    """Holds requests to the system text that their conversation began with.

    Where it differs in one short span, the span goes out as it was. Every other byte stays.
    """

    def __init__(self, clock: Callable[[], float], noticed: Noticed) -> None:
        self._clock = clock
        self._noticed = noticed
        self._fronts: OrderedDict[tuple[str, int], Front] = OrderedDict()
        self._size = 0

    def settle(self, raw: bytes, client: str) -> bytes:
        """Write a body's system text as it was; known lines are taken out first."""
        raw = known(raw)
        if len(raw) > LARGE or is_too_much(raw):  # beside the event loop nothing is remembered
            return raw
        try:
            text = raw.decode()
            places, opening = _read(text)
        except (ValueError, RecursionError):
            return raw  # no JSON: the server will say so
        if not opening or not places or sum(end - start for start, end in places) > LONGEST:
            return raw
        edit = self._edit(client, opening, [text[start:end] for start, end in places])
        if edit is None:
            return raw
        number, was = edit
        start, end = places[number]
        return (text[:start] + was + text[end:]).encode()

    def _edit(self, client: str, opening: str, texts: list[str]) -> tuple[int, str] | None:
        """Find the text that must be written as it was, and how it was."""
        now = self._clock()
        key = client, hash(opening)
        front = self._fronts.get(key)
        if front is None or now - front.since >= LIFETIME or len(front.texts) != len(texts):
            self._keep(key, Front(texts, now, told=front is not None and front.told))
            return None
        self._fronts.move_to_end(key)
        changed = [n for n, (a, b) in enumerate(zip(front.texts, texts, strict=True)) if a != b]
        if len(changed) != 1:
            return None
        number = changed[0]
        was, now_is = front.texts[number], texts[number]
        at, rest = common_ends(was, now_is)
        if max(len(was), len(now_is)) - at - rest > SPAN:
            return None
        if not front.told:
            front.told = True
            self._noticed(client, number, at)
        return number, was

    def _keep(self, key: tuple[str, int], front: Front) -> None:
        """Remember a conversation, and forget those unused for longest where that is too much."""
        before = self._fronts.pop(key, None)
        self._size += front.size - (0 if before is None else before.size)
        self._fronts[key] = front
        while len(self._fronts) > CONVERSATIONS or self._size > ROOM:
            _, unused = self._fronts.popitem(last=False)
            self._size -= unused.size


def _read(text: str) -> tuple[list[Edit], str]:
    """Find the system texts of a body, as they stand there, and the first message beside them."""
    places: list[Edit] = []
    opening = ""
    for name, start, end in members(text):
        if name in ("system", "instructions"):
            places += [(start + a, start + b) for a, b in _texts(text[start:end])]
        elif name == "input" and text[start] == '"':
            opening = opening or text[start:end]
        elif name in ("messages", "input") and text[start] == "[":
            for first, last in elements(text[start:end]):
                message = text[start + first : start + last]
                content = system_content(message)
                if content is None:
                    opening = opening or message
                else:
                    at = start + first + content[0]
                    inner = _texts(message[content[0] : content[1]])
                    places += [(at + a, at + b) for a, b in inner]
    return places, opening


def _texts(content: str) -> Iterator[Edit]:
    """Find the texts of a content: one, or those of its blocks."""
    if content[:1] == '"':
        yield 0, len(content)
    elif content[:1] == "[":
        for start, end in elements(content):
            block = content[start:end]
            if block[:1] == "{":
                for name, first, last in members(block):
                    if name == "text" and block[first] == '"':
                        yield start + first, start + last
