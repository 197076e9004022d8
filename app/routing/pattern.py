"""A static check of regular expressions: which of them can take for ever.

Python's matcher backtracks: where a pattern can read the same text in many ways, a text that
does not match in the end makes it try them all. The check turns the pattern into its
position automaton (Glushkov, 1961: one state for each character that the pattern names) and
counts the ways through it that read some prefix of a text. That number is the matcher's
work, and counting it takes a time linear in the text. The texts are made of what the
pattern's own loops, and the stretches between them, can read over and over.
"""

import re
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from re import _compiler, _parser  # type: ignore[attr-defined]
from re import _constants as op  # type: ignore[attr-defined]
from typing import Any

TEXT_LENGTH = 256
"""How long the texts are, in characters: as long as a model name may be."""

TRIES = 2_000_000
"""More ways than this are too many: some 50 ms for one text."""

SEARCH_TRIES = 100_000
"""The limit for a search, whose text is longer than those here: work that grows with the cube
of the length is too much for a text of some thousand characters."""

COPIES = 20
"""A repeat up to this count is counted exactly; a larger one is taken as unbounded."""

SIZE_LIMIT = 5_000
"""Largest automaton, in positions."""

ATOMS = (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN)
REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)
SAMPLES = "axzAXZ019_- .:/\n\té太あア０\U0001f600"
"""Characters of many kinds, beside those that the pattern names itself."""

REASON = (
    "can take millions of steps on a text like {text}: avoid a repeat inside a repeat, as in "
    "(a+)+, and several repeats that match the same characters, as in .*.*.*"
)
SEARCH_REASON = REASON + " (a search needs no .* at its beginning)"


def weakness(pattern: str, *, search: bool = False) -> str | None:
    """Tell why a pattern is dangerous to match against text from strangers; None if it is not.

    `search` says that a match may begin anywhere, not at the text's beginning only.
    Possessive and atomic groups are judged as if they were ordinary.

    Raises:
        re.error: the pattern is no regular expression.
    """
    tree = _parser.parse(pattern)
    automaton = _Automaton()
    try:
        automaton.read(tree, tree.state.flags)
    except _Refused as refused:
        return str(refused)
    limit, reason = (SEARCH_TRIES, SEARCH_REASON) if search else (TRIES, REASON)
    for part in automaton.parts:
        paths = _Paths(automaton, part)
        for text in paths.texts():
            if paths.tries(text, limit, search=search) > limit:
                return reason.format(text=f'"{_shown(text)}…"')
    return None


class _Refused(Exception):
    """The pattern is refused for what it is made of."""


@dataclass(slots=True)
class _Part:
    """A part of the pattern: at which positions it begins and ends, and in how many ways."""

    first: Counter[int] = field(default_factory=Counter)
    last: Counter[int] = field(default_factory=Counter)
    empty: int = 1
    """In how many ways it matches nothing."""


@dataclass
class _Automaton:
    atoms: list[tuple[Any, int]] = field(default_factory=list)
    """The parsed item and its flags, by position."""
    edges: list[Counter[int]] = field(default_factory=list)
    """Which position may follow a position, and in how many ways."""
    parts: list[_Part] = field(default_factory=list)
    """What is matched by itself: the whole pattern, and each look around."""

    def read(self, tree: Any, flags: int) -> None:
        """Take in a pattern that is matched by itself."""
        self.parts.append(self._sequence(tree, flags))

    def _sequence(self, items: Iterable[Any], flags: int) -> _Part:
        part = _Part()
        for item in items:
            part = self._joined(part, self._part(item, flags))
        return part

    def _part(self, item: Any, flags: int) -> _Part:
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
                return _Part(
                    sum((part.first for part in parts), Counter()),
                    sum((part.last for part in parts), Counter()),
                    sum(part.empty for part in parts),
                )
            case op.ASSERT | op.ASSERT_NOT:
                self.read(value[1], flags)
                return _Part()
            case op.GROUPREF | op.GROUPREF_EXISTS:
                raise _Refused(r"refers back to a group, as in (a*)\1, which can take for ever")
        return _Part()  # ^, $ and \b match nothing; neither does (?!)

    def _atom(self, item: Any, flags: int) -> _Part:
        position = len(self.atoms)
        if position == SIZE_LIMIT:
            raise _Refused("is too large: count less high, or split it")
        self.atoms.append((item, flags))
        self.edges.append(Counter())
        return _Part(Counter([position]), Counter([position]), 0)

    def _repeat(self, body: Any, flags: int, least: int, most: Any) -> _Part:
        def once() -> _Part:
            return self._sequence(body, flags)

        part = _Part()
        for _ in range(min(least, COPIES)):
            part = self._joined(part, once())
        if least <= COPIES and most - least <= COPIES:
            rest = _Part()
            for _ in range(most - least):
                rest = _optional(self._joined(once(), rest))
        else:
            rest = once()
            self._link(rest, rest)
            rest = _optional(rest)
        return self._joined(part, rest)

    def _joined(self, one: _Part, other: _Part) -> _Part:
        self._link(one, other)
        return _Part(
            one.first + _times(other.first, one.empty),
            other.last + _times(one.last, other.empty),
            one.empty * other.empty,
        )

    def _link(self, one: _Part, other: _Part) -> None:
        for position, ways in one.last.items():
            self.edges[position] += _times(other.first, ways)


def _times(ways: Counter[int], factor: int) -> Counter[int]:
    return Counter({position: n * factor for position, n in ways.items()} if factor else {})


def _optional(part: _Part) -> _Part:
    return _Part(part.first, part.last, part.empty + 1)


class _Paths:
    """The ways through one part of an automaton."""

    def __init__(self, automaton: _Automaton, part: _Part) -> None:
        self._first = part.first
        self._edges = automaton.edges
        alphabet = _alphabet(item for item, _ in automaton.atoms)
        known: dict[str, frozenset[str]] = {}
        for item, flags in automaton.atoms:
            if (key := f"{item}{flags}") not in known:
                known[key] = _matched(item, flags, alphabet)
        self._sets = [known[f"{item}{flags}"] for item, flags in automaton.atoms]
        # One character stands for all that the pattern cannot tell apart.
        kinds = {tuple(c in found for found in known.values()): c for c in reversed(alphabet)}
        self._kinds = list(reversed(kinds.values()))
        common = Counter(c for found in self._sets for c in found)
        ranked = sorted(alphabet, key=lambda c: -common[c])
        self._typical = [next((c for c in ranked if c in found), "") for found in self._sets]
        self._loops = {p for p, edges in enumerate(self._edges) if p in edges}

    def tries(self, text: str, limit: int, *, search: bool) -> int:
        """Count the ways that read a prefix of the text; stop counting above the limit."""
        here: Counter[int] = Counter()
        total = 0
        for at, character in enumerate(text):
            there: Counter[int] = Counter()
            if at == 0 or search:
                there.update(self._steps(self._first, character))
            for position, ways in here.items():
                for after, n in self._steps(self._edges[position], character).items():
                    there[after] += ways * n
            here = there
            total += here.total()
            if total > limit or not (here or search):
                break
        return total

    def texts(self) -> Iterator[str]:
        """Make up the texts that are likely to be read in many ways."""
        seen = set()
        stretches = []
        after_loops = {after for position in self._loops for after in self._edges[position]}
        for position, before in self._ways_in().items():
            words = {self._typical[position]: None, self._way_round(position): None}
            if position in self._loops:
                words |= dict.fromkeys(c for c in self._kinds if c in self._sets[position])
            elif position in after_loops:
                stretches.append(self._way_round(position))
            for word in words:
                text = _filled(before, word, TEXT_LENGTH)
                if word and text not in seen:
                    seen.add(text)
                    yield text
        room = TEXT_LENGTH // max(1, len(stretches))
        yield "".join(_filled("", word, room) for word in stretches)

    def _steps(self, edges: Counter[int], character: str) -> dict[int, int]:
        return {after: n for after, n in edges.items() if character in self._sets[after]}

    def _ways_in(self) -> dict[int, str]:
        """Find for each position the shortest text that leads up to it."""
        found = dict.fromkeys(self._first, "")
        queue = deque(found)
        while queue:
            position = queue.popleft()
            before = found[position] + self._typical[position]
            for after in self._edges[position] if len(before) < TEXT_LENGTH else ():
                if after not in found:
                    found[after] = before
                    queue.append(after)
        return found

    def _way_round(self, start: int) -> str:
        """Find the shortest text from a position to itself, or on to what repeats by itself."""
        found = {start: self._typical[start]}
        queue = deque(found)
        while queue:
            position = queue.popleft()
            if len(found[position]) == TEXT_LENGTH:
                break
            for after in self._edges[position]:
                if after == start or after in self._loops:
                    return found[position]
                if after not in found:
                    found[after] = found[position] + self._typical[after]
                    queue.append(after)
        return ""


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


def _matched(item: Any, flags: int, alphabet: str) -> frozenset[str]:
    regex = _compiler.compile(_parser.SubPattern(_parser.State(), [item]), flags)
    return frozenset(c for c in alphabet if regex.match(c))


def _filled(before: str, word: str, length: int) -> str:
    return (before + word * length)[:length]


def _shown(text: str) -> str:
    return re.sub(r"\s", " ", text[:12])
