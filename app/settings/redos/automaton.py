"""The position automaton of a regular expression (Glushkov, 1961).

It has one state for each character that the pattern names, and counts in how many ways one
may follow another, as a backtracking matcher would try them.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

# Types know nothing of these modules.
_compiler = import_module("re._compiler")
_parser = import_module("re._parser")
op = import_module("re._constants")

COPIES = 20
"""A repeat up to this count is counted exactly; a larger one is taken as unbounded."""

SIZE_LIMIT = 5_000
"""Largest automaton, in positions."""

ATOMS = (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN)
REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)
SAMPLES = "axzAXZ019_- .:/\n\té太あア０\U0001f600"
"""Characters of many kinds, beside those that the pattern names itself."""


class Refused(Exception):
    """The pattern is refused for what it is made of."""


@dataclass(slots=True)
class Part:
    """A part of the pattern: at which positions it begins and ends, and in how many ways."""

    first: Counter[int] = field(default_factory=Counter)
    last: Counter[int] = field(default_factory=Counter)
    empty: int = 1
    """In how many ways it matches nothing."""


@dataclass(slots=True)
class Automaton:
    """What a pattern can read after what."""

    atoms: list[tuple[Any, int]] = field(default_factory=list)
    """The parsed item and its flags, by position."""
    edges: list[Counter[int]] = field(default_factory=list)
    """Which position may follow a position, and in how many ways."""
    parts: list[Part] = field(default_factory=list)
    """What is matched by itself: the whole pattern, and each look around."""

    @classmethod
    def of(cls, pattern: str) -> "Automaton":
        """Read a pattern.

        Raises:
            re.error: it is no regular expression.
            Refused: it refers back to a group, or is too large.
        """
        tree = _parser.parse(pattern)
        automaton = cls()
        automaton._read(tree, tree.state.flags)
        return automaton

    def characters(self) -> tuple[str, list[frozenset[str]]]:
        """List an alphabet that tells all positions apart, and what of it each one reads."""
        alphabet = _alphabet(item for item, _ in self.atoms)
        known: dict[str, frozenset[str]] = {}
        sets = []
        for item, flags in self.atoms:
            if (key := f"{item}{flags}") not in known:
                known[key] = _read(item, flags, alphabet)
            sets.append(known[key])
        return alphabet, sets

    def _read(self, tree: Any, flags: int) -> None:
        self.parts.append(self._sequence(tree, flags))

    def _sequence(self, items: Iterable[Any], flags: int) -> Part:
        part = Part()
        for item in items:
            part = self._joined(part, self._part(item, flags))
        return part

    def _part(self, item: Any, flags: int) -> Part:
        kind, value = item
        if kind in ATOMS:
            return self._atom(item, flags)
        if kind in REPEATS:
            least, most, body = value
            return self._repeat(body, flags, least, most)
        match kind:
            case op.SUBPATTERN:
                _, added, removed, body = value
                return self._sequence(body, (flags | added) & ~removed)
            case op.ATOMIC_GROUP:
                return self._sequence(value, flags)
            case op.BRANCH:
                parts = [self._sequence(branch, flags) for branch in value[1]]
                return Part(
                    sum((part.first for part in parts), Counter()),
                    sum((part.last for part in parts), Counter()),
                    sum(part.empty for part in parts),
                )
            case op.ASSERT | op.ASSERT_NOT:
                self._read(value[1], flags)
                return Part()
            case op.GROUPREF | op.GROUPREF_EXISTS:
                raise Refused(r"refers back to a group, as in (a*)\1, which can take for ever")
        return Part()  # ^, $ and \b match nothing; neither does (?!)

    def _atom(self, item: Any, flags: int) -> Part:
        position = len(self.atoms)
        if position == SIZE_LIMIT:
            raise Refused("is too large: count less high, or split it")
        self.atoms.append((item, flags))
        self.edges.append(Counter())
        return Part(Counter([position]), Counter([position]), 0)

    def _repeat(self, body: Any, flags: int, least: int, most: Any) -> Part:
        def once() -> Part:
            return self._sequence(body, flags)

        part = Part()
        for _ in range(min(least, COPIES)):
            part = self._joined(part, once())
        if least <= COPIES and most - least <= COPIES:
            rest = Part()
            for _ in range(most - least):
                rest = _optional(self._joined(once(), rest))
        else:
            rest = once()
            self._link(rest, rest)
            rest = _optional(rest)
        return self._joined(part, rest)

    def _joined(self, one: Part, other: Part) -> Part:
        self._link(one, other)
        return Part(
            one.first + _times(other.first, one.empty),
            other.last + _times(one.last, other.empty),
            one.empty * other.empty,
        )

    def _link(self, one: Part, other: Part) -> None:
        for position, ways in one.last.items():
            self.edges[position] += _times(other.first, ways)


def _times(ways: Counter[int], factor: int) -> Counter[int]:
    return Counter({position: n * factor for position, n in ways.items()} if factor else {})


def _optional(part: Part) -> Part:
    return Part(part.first, part.last, part.empty + 1)


def _alphabet(items: Iterable[Any]) -> str:
    """List characters that tell the items apart: those they name, their neighbours, samples."""
    found = dict.fromkeys(SAMPLES)
    for kind, value in items:
        named = value if kind is op.IN else [(kind, value)]
        for code in (n for _, v in named for n in (v if isinstance(v, tuple) else (v,))):
            if type(code) is int:  # and no category, which is a number too
                near = (chr(n) for n in (code, code - 1, code + 1) if 0 <= n <= sys.maxunicode)
                found |= dict.fromkeys(c for one in near for c in (one, one.swapcase()[0]))
    return "".join(found)


def _read(item: Any, flags: int, alphabet: str) -> frozenset[str]:
    regex = _compiler.compile(_parser.SubPattern(_parser.State(), [item]), flags)
    return frozenset(c for c in alphabet if regex.match(c))
