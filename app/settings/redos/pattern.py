"""A static check of regular expressions: which of them can take for ever.

Python's matcher backtracks: where a pattern can read the same text in many ways, a text that
does not match in the end makes it try them all. The check counts the ways through the
pattern's automaton that read some prefix of a text. That number is the matcher's work, and
counting it takes a time linear in the text. The texts are made of what the pattern's own
loops, and the stretches between them, can read over and over.
"""

import re
from collections import Counter, deque
from collections.abc import Iterator

from app.settings.redos.automaton import Automaton, Part, Refused

TEXT_LENGTH = 256
"""How long the texts are, in characters: as long as a model name may be."""

TRIES = 2_000_000
"""More ways than this are too many: some 50 ms for one text."""

SEARCH_TRIES = 100_000
"""The limit for a search, whose text is longer than those here: work that grows with the cube
of the length is too much for a text of some thousand characters."""

REASON = (
    "can take millions of steps on a text like {text}: avoid a repeat inside a repeat, as in "
    "(a+)+, and several repeats that match the same characters, as in .*.*.*"
)
SEARCH_REASON = REASON + " (a search needs no .* at its beginning)"


def weakness(pattern: str, *, search: bool = False) -> str | None:
    """Return why a pattern is dangerous to match against text from strangers; None if it is not.

    `search` says that a match may begin anywhere, not at the text's beginning only.
    Possessive and atomic groups are judged as if they were ordinary.

    Raises:
        re.error: the pattern is no regular expression.
    """
    try:
        automaton = Automaton.of(pattern)
    except Refused as refused:
        return str(refused)
    limit, reason = (SEARCH_TRIES, SEARCH_REASON) if search else (TRIES, REASON)
    paths = _Paths(automaton)
    for part in automaton.parts:
        for text in paths.texts(part):
            if paths.tries(part, text, limit, search=search) > limit:
                return reason.format(text=f'"{_shown(text)}…"')
    return None


class _Paths:
    """The ways through an automaton."""

    def __init__(self, automaton: Automaton) -> None:
        alphabet, self._sets = automaton.characters()
        self._edges = automaton.edges
        self._back: list[list[int]] = [[] for _ in self._edges]
        for position, edges in enumerate(self._edges):
            for after in edges:
                self._back[after].append(position)
        self._loops = {p for p, edges in enumerate(self._edges) if p in edges}
        # One character stands for all that the pattern cannot tell apart.
        different = set(self._sets)
        kinds = {tuple(c in one for one in different): c for c in reversed(alphabet)}
        self._kinds = list(reversed(kinds.values()))
        common = Counter(c for one in self._sets for c in one)
        ranked = sorted(self._kinds, key=lambda c: -common[c])
        self._typical = [next((c for c in ranked if c in one), "") for one in self._sets]

    def tries(self, part: Part, text: str, limit: int, *, search: bool) -> int:
        """Count the ways that read a prefix of the text; stop counting above the limit."""
        here: Counter[int] = Counter()
        total = 0
        for at, character in enumerate(text):
            there: Counter[int] = Counter()
            if at == 0 or search:
                there.update(self._steps(part.first, character))
            for position, ways in here.items():
                for after, n in self._steps(self._edges[position], character).items():
                    there[after] += ways * n
            here = there
            total += here.total()
            if total > limit or not (here or search):
                break
        return total

    def texts(self, part: Part) -> Iterator[str]:
        """Make up the texts that are likely to be read in many ways."""
        seen = set()
        stretches = []
        after_loops = {after for position in self._loops for after in self._edges[position]}
        for position, before in self._ways_in(part).items():
            words = dict.fromkeys(self._forks(position))
            words |= {self._typical[position]: None, self._way_round(position): None}
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

    def _forks(self, position: int) -> Iterator[str]:
        """Find texts that lead from a position to a choice of ways, and back to it."""
        edges = self._edges[position]
        back: dict[int, str] = {}
        for character in self._kinds:
            ways = self._steps(edges, character)
            if sum(ways.values()) > 1:
                back = back or self._ways_back(position)
                here = self._typical[position] + character
                yield from (here + back[q][:-1] for q in ways if q in back and q != position)

    def _steps(self, edges: Counter[int], character: str) -> dict[int, int]:
        return {after: n for after, n in edges.items() if character in self._sets[after]}

    def _ways_in(self, part: Part) -> dict[int, str]:
        """Find for each position the shortest text that leads up to it."""
        found = dict.fromkeys(part.first, "")
        queue = deque(found)
        while queue:
            position = queue.popleft()
            before = found[position] + self._typical[position]
            for after in self._edges[position] if len(before) < TEXT_LENGTH else ():
                if after not in found:
                    found[after] = before
                    queue.append(after)
        return found

    def _ways_back(self, end: int) -> dict[int, str]:
        """Find for each position the shortest text that leads from behind it up to the end."""
        found = {end: ""}
        queue = deque(found)
        while queue:
            position = queue.popleft()
            behind = self._typical[position] + found[position]
            for before in self._back[position] if len(behind) < TEXT_LENGTH else ():
                if before not in found:
                    found[before] = behind
                    queue.append(before)
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


def _filled(before: str, word: str, length: int) -> str:
    return (before + word * length)[:length]


def _shown(text: str) -> str:
    return re.sub(r"\s", " ", text[:12])
