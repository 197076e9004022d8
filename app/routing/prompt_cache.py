"""Which prompts a model server holds in its cache, slot by slot, as far as can be known."""

import math
from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from app.routing.prefix_index import PrefixIndex
from app.routing.prompt import Prompt
from app.routing.prompt_change import PromptChange, find_change, find_dropped
from app.routing.saved_prompts import SavedPrompts

WORTH_KEEPING: Final = 256
"""Prompts shorter than this, in characters, are read again faster than they are looked for."""

PAST: Final = 256
"""How many prompts that have left their slots are remembered."""

RECENT: Final = 8
"""How many pauses of a conversation are remembered, besides the last."""

BETWEEN: Final = 0.75
"""Where, between what was held and what was lost, a server's memory is believed to end."""

BETWEEN_NOTHING: Final = 0.5
"""The same, where nothing was held."""

GUESSED_DEPTH: Final = 16
"""How many prompts a server is believed to hold outside of slots before it has shown it.

To believe too much costs little: the request merely goes where it was before.
"""


class Match(IntEnum):
    """How well a prompt goes with what a server holds, the best first."""

    CONTINUES = 0
    """A free slot holds the prompt that this one continues."""
    REMEMBERED = 1
    """The server holds that prompt outside of its slots, in RAM say."""
    CHANGED = 2
    """A free slot holds the same conversation, with a text in it that differs."""
    EMPTY = 3
    """A free slot holds nothing that anybody will come back to."""
    EVICTS = 4
    """Every free slot holds a conversation: one will have to be read again."""


class Slot:
    """One parallel sequence of a model, and the prompt in its cache."""

    __slots__ = (
        "held_for",
        "number",
        "occupancy",
        "pauses",
        "prompt",
        "prompt_cache",
        "touched",
        "turn_since",
        "used_at",
    )

    def __init__(self, number: int, prompt_cache: "PromptCache") -> None:
        self.number = number
        self.prompt_cache = prompt_cache
        self.prompt: Prompt | None = None
        self.occupancy: Occupancy | None = None
        """Whose it is now; None while it is free."""
        self.used_at = 0.0
        self.turn_since = 0.0
        """When the conversation that it holds came here."""
        self.pauses: list[float] = []
        """Seconds between its last responses and requests."""
        self.held_for = 0.0
        """Seconds for which it was held for its own: what its eviction would have cost."""
        self.touched = False
        """Taken or given back since the server last report which of its slots are busy."""

    @property
    def busy(self) -> bool:
        """Whether a request has it."""
        return self.occupancy is not None

    @property
    def being_left(self) -> bool:
        """Whether the client of the request that has it is gone: the server stops any moment."""
        return self.occupancy is not None and self.occupancy.left

    def holds(self, prompt: Prompt) -> int:
        """Count the characters of a prompt that it holds."""
        return 0 if self.prompt is None else prompt.shared(self.prompt)

    def drops_for(self, prompt: Prompt) -> bool:
        """Whether what it holds is lost where it gets a prompt that repeats half of it, or more.

        llama.cpp's server goes on with that half. It neither keeps the rest in memory, nor looks
        there for the prompt.
        """
        held = self.prompt
        return held is not None and 2 * prompt.repeated(held) >= held.size

    def placement(
        self, prompt: Prompt, _now: float, elsewhere: Collection[int] = ()
    ) -> "Placement | None":
        """Return the place that this is for a prompt which continues its own; else None."""
        known = 0 if self.prompt is None else prompt.shared(self.prompt)
        if known < WORTH_KEEPING or not self.prompt_cache.open_to_its_own(self, elsewhere):
            return None
        return Placement(self.prompt_cache, Match.CONTINUES, self, known)

    def worth(self, now: float) -> float:
        """Weigh what would be lost: much text counts, and how recently it was used."""
        if self.prompt is None:
            return 0.0
        return self.prompt.size / (1.0 + now - self.used_at)


class Rank(NamedTuple):
    """How long ago a prompt has left its slot, by what has left since."""

    prompts: int
    """How many have, after it."""
    characters: int
    """Their sizes, and its own."""


class Past:
    """A prompt that has left its slot."""

    __slots__ = ("depth", "file", "in_memory", "pauses", "size", "used_at", "wanted_at")

    def __init__(self, size: int, used_at: float, pauses: list[float]) -> None:
        self.size = size
        """In characters."""
        self.used_at = used_at
        self.pauses = pauses
        """Seconds between its conversation's last responses and requests."""
        self.wanted_at = 0.0
        """When a request that continues it was waiting last."""
        self.depth = size
        """The most characters that have ever stood between it and the newest, its own included."""
        self.in_memory = True
        """Whether the server may hold it in RAM."""
        self.file = ""
        """The file that it was saved in, if it was."""


class Placement:
    """The best that a server's caches can do for a prompt."""

    __slots__ = ("continued", "known", "match", "prompt_cache", "rank", "slot", "worth")

    def __init__(
        self,
        prompt_cache: "PromptCache",
        match: Match,
        slot: Slot | None,
        known: int,
        worth: float = 0.0,
        continued: int = 0,
        rank: Rank | None = None,
    ) -> None:
        self.prompt_cache = prompt_cache
        self.match = match
        self.slot = slot
        self.known = known
        """Characters of the prompt that need no work."""
        self.worth = worth
        """What is lost where somebody's prompt must go."""
        self.continued = continued
        """The base of the prompt that is continued, where it has left its slot."""
        self.rank = rank
        """What has left its slot since that one has."""

    def at(self, slot: Slot, now: float) -> "Placement":
        """Return the same in another slot, which holds another's prompt or none."""
        match = self.match
        if match > Match.CHANGED:
            match = Match.EVICTS if slot.prompt is not None else Match.EMPTY
        worth = slot.worth(now)
        return Placement(
            self.prompt_cache, match, slot, self.known, worth, self.continued, self.rank
        )

    def change(self, prompt: Prompt) -> PromptChange | None:
        """Find what changed in the conversation that the slot holds; None if nothing did.

        What is said anew at its end is no change.
        """
        earlier = None if self.slot is None else self.slot.prompt
        if earlier is None or self.match not in (Match.CONTINUES, Match.CHANGED):
            return None
        if self.match is Match.CONTINUES and prompt.reads_again(earlier) < WORTH_KEEPING:
            return None
        return find_change(earlier, prompt)


class Prediction:
    """What a request was placed for: held against what its response tells."""

    __slots__ = ("possible", "rank", "share")

    def __init__(self, share: float, rank: Rank | None = None, possible: float = 0.0) -> None:
        self.share = share
        """The part of the prompt that should come from the cache, from 0 to 1."""
        self.rank = rank
        """What has left its slot since the one that is continued, if that has left its own."""
        self.possible = possible
        """The part that comes from the cache if that prompt is still held."""


class Occupancy:
    """A prompt at the place that was found for it, until its response ends."""

    __slots__ = ("_before", "left", "placement", "prediction", "prompt", "slot")

    def __init__(self, placement: Placement, prompt: Prompt, before: Prompt | None) -> None:
        size = prompt.size or 1
        possible = prompt.prefixes[placement.continued] / size if placement.continued else 0.0
        share = placement.known / size
        self.slot = placement.slot
        looked_for = self.slot is None or not self.slot.drops_for(prompt)
        rank = placement.rank if looked_for else None  # else it says nothing of the memory
        self.prediction = Prediction(share, rank, possible)
        self.left = False
        """Whether its client is gone."""
        self.placement = placement
        self.prompt = prompt
        self._before = before

    def dropped(self, cached: float) -> PromptChange | None:
        """Find the reasoning that was left out, where only a share of the prompt was cached."""
        return find_dropped(self._before, self.prompt, cached)

    def end(self, now: float, *, worked: bool) -> None:
        """Free the place; it holds the prompt from now on if the server has worked on it."""
        slot = self.slot
        if slot is not None and slot.occupancy is self:
            slot.occupancy = None
            slot.touched = True
            slot.used_at = now
        if not worked:
            self.placement.prompt_cache.undo(self.placement, self.prompt, self._before)


class PromptCache:
    """The slots of one instance of a model, and the prompts that have left them.

    Without a number of slots, every prompt is one of the past: then the server manages its
    cache by itself. How much it holds of the past is learned from what its responses tell.
    """

    def __init__(
        self,
        count: int | None,
        *,
        stale_after: float,
        server: str = "",
        index: "PrefixIndex[Slot | PromptCache]",
        saved: SavedPrompts | None = None,
    ) -> None:
        self.server = server
        self.saved = SavedPrompts(0) if saved is None else saved
        self._index = index
        self.slots: list[Slot] = []
        self.shown = 0
        """Up to how many characters it has shown to hold of prompts that have left their slots."""
        self.lost_from = math.inf
        """From how many characters on it was seen to have lost them."""
        self._past: dict[int, Past] = {}  # prompts by their bases, the newest last
        self._stale_after = stale_after
        self.resize(count)

    def resize(self, count: int | None) -> None:
        """Take in how many slots there are."""
        self._count = count or 0
        if self._count != len(self.slots):
            # A slot at work is kept, even one that there should not be: it may come back.
            kept = {x.number: x for x in self.slots if x.number < self._count or x.busy}
            for slot in self.slots:
                if slot.number not in kept:
                    self._put(slot, None)
            numbers = sorted({*range(self._count), *kept})
            self.slots = [kept.get(number) or Slot(number, self) for number in numbers]

    def forget(self) -> None:
        """Believe that nothing is held but in files: the server was away."""
        for base, past in list(self._past.items()):
            if past.file:
                past.in_memory = False
            else:
                self._forget_past(base)
        for slot in self.slots:
            self._put(slot, None)

    def open_to_its_own(self, slot: Slot, elsewhere: Collection[int]) -> bool:
        """Whether a slot may take a prompt that continues its own.

        A client that gave up and asks the same again is not kept waiting by its first request.
        Slots in `elsewhere` are busy with others' work.
        """
        if slot.number >= self._count or slot.number in elsewhere:
            return False
        return not slot.busy or slot.being_left

    def placement(
        self, prompt: Prompt, now: float, elsewhere: Collection[int] = ()
    ) -> Placement | None:
        """Find the best place for a prompt; None where no slot is free."""
        own = [x for x in self.slots if self.open_to_its_own(x, elsewhere)]
        continued, known = None, 0
        for slot in own:
            if slot.prompt is not None and (shared := prompt.shared(slot.prompt)) > known:
                continued, known = slot, shared
        if continued is not None and known >= WORTH_KEEPING:
            return Placement(self, Match.CONTINUES, continued, known)
        free = [x for x in own if not x.busy]
        if self.slots and not free:
            return None
        brief = prompt.brief
        victim = min(free, key=lambda x: self._sacrifice(x, now, brief=brief)) if free else None
        superseded = self._superseded(prompt, free) if free else None
        base = self._recall(prompt)
        rank = self._rank(base) if base else None
        place = superseded or victim
        if rank is not None and place is not None and place.drops_for(prompt):
            others = [x for x in free if not x.drops_for(prompt)]
            place = min(others, key=lambda x: self._sacrifice(x, now, brief=brief), default=None)
        if rank is not None and (place or not self.slots) and self._has(base, rank):
            return Placement(self, Match.REMEMBERED, place, prompt.prefixes[base], 0.0, base, rank)
        if superseded is not None and superseded.prompt is not None:
            known = prompt.repeated(superseded.prompt)
            return Placement(self, Match.CHANGED, superseded, known, 0.0, base, rank)
        if victim is None or not self._lives(victim, now):
            return Placement(self, Match.EMPTY, victim, 0, 0.0, base, rank)
        return Placement(self, Match.EVICTS, victim, 0, victim.worth(now), base, rank)

    def holds(self, prompt: Prompt) -> int:
        """Count the characters of a prompt that are believed to be held outside of slots."""
        base = self._recall(prompt)
        return prompt.prefixes[base] if base and self._has(base, self._rank(base)) else 0

    def free(self, elsewhere: Collection[int] = ()) -> list[Slot]:
        """List the slots that nobody has."""
        return [x for x in self.slots if not x.busy and self.open_to_its_own(x, elsewhere)]

    def lost_by_evicting(
        self, slot: Slot, now: float, coming: int = 0, *, kept: bool = True
    ) -> int:
        """Count the characters that somebody must read again if a slot is given to another.

        The prompt that leaves the slot stays in the server's memory if that is `kept`; from there
        the oldest goes, and so does the one that is `coming`, by its base.
        """
        if slot.prompt is None or not self._lives(slot, now):
            return 0
        size = slot.prompt.size
        if not kept or size > self.lost_from:
            return size
        return self.pushed_out(size, now, coming)

    def pushed_out(self, size: int, now: float, coming: int = 0) -> int:
        """Count the characters that the memory loses of prompts as it takes in so many.

        What is `coming` leaves it, by its base.
        """
        behind, lost = 0, 0
        for base, past in reversed(self._past.items()):
            if base == coming or past.depth >= self.lost_from or past.file:
                continue  # it leaves, is lost already, or can be restored
            behind += past.size
            wanted = max(past.used_at, past.wanted_at)
            if behind + size > self.lost_from and now - wanted < self._stale_after:
                lost += past.size
        return lost

    def want(self, prompt: Prompt, now: float) -> None:
        """Note that a request waits which continues a prompt of the past."""
        base = self._recall(prompt)
        if base:
            self._past[base].wanted_at = now

    def take(
        self, placement: Placement, prompt: Prompt, now: float, asked_at: float | None = None
    ) -> Occupancy:
        """Let a prompt have the place that was found for it; it is asked for since `asked_at`."""
        past = self._past.get(placement.continued)
        self._forget_past(placement.continued)
        slot = placement.slot
        if slot is None:
            self._remember(prompt, now, [])
            return Occupancy(placement, prompt, None)
        before = slot.prompt
        occupancy = Occupancy(placement, prompt, before)
        goes_on = before is not None and (
            placement.match is Match.CONTINUES or prompt.changes(before)
        )
        since = now if asked_at is None else asked_at
        if goes_on:
            if not slot.busy:
                slot.pauses = [*slot.pauses[-RECENT:], max(0.0, since - slot.used_at)]
        else:
            if before is not None and not slot.drops_for(prompt):
                self._remember(before, slot.used_at, slot.pauses)
            slot.turn_since = now
            slot.pauses = []
            if past is not None:
                slot.pauses = [*past.pauses[-RECENT:], max(0.0, since - past.used_at)]
        self._put(slot, prompt)
        slot.occupancy = occupancy
        slot.touched = True
        slot.used_at = now
        return occupancy

    def undo(self, placement: Placement, prompt: Prompt, before: Prompt | None) -> None:
        """Believe what was believed before a prompt took its place, unless all was forgotten."""
        slot = placement.slot
        in_slot = slot is not None and slot.prompt is prompt
        if not in_slot and prompt.base not in self._past:
            return
        gone = before if in_slot else prompt  # another may have put it out of its slot meanwhile
        if gone is not None:
            self._forget_past(gone.base)
        if placement.continued:
            self._add_past(placement.continued, Past(prompt.prefixes[placement.continued], 0.0, []))
        if in_slot and slot is not None:
            self._put(slot, before)

    def correct(self, rank: Rank, *, held: bool) -> None:
        """Take in from a response whether a prompt of the past was still held.

        `rank` is what it was when the request was placed.
        """
        if held:
            self.shown = max(self.shown, rank.characters)
            if rank.characters >= self.lost_from:
                self.lost_from = 1.1 * rank.characters
        elif rank.characters > self.shown:
            # What holds nothing has lost the smallest prompt as well.
            share = BETWEEN if self.shown else BETWEEN_NOTHING
            between = self.shown + share * (rank.characters - self.shown)
            self.lost_from = min(self.lost_from, between)
        else:
            # Its memory may have become smaller; or the prompt was lost for another reason.
            between = (self.shown + rank.characters) / 2
            self.shown = int(0.9 * between)
            self.lost_from = between

    # Files

    def take_file(self, base: int) -> str:
        """Return the file from which a prompt must be restored; empty where there is none."""
        past = self._past.get(base)
        if past is None or not past.file or (past.in_memory and self._believes(self._rank(base))):
            return ""
        file, past.file = past.file, ""
        return file

    def name_file(self) -> str:
        """Return a name for a new file, if need be the oldest one's; empty where there is none."""
        name = self.saved.name()
        oldest = None if name else next((x for x in self._past.values() if x.file), None)
        if oldest is not None:
            name, oldest.file = oldest.file, ""
        return name

    def note_file(self, base: int, file: str) -> None:
        """Note that a prompt was saved."""
        past = self._past.get(base)
        if past is None:
            self.saved.free(file)  # it is in a slot again, or forgotten
        else:
            past.file = file

    def lose(self, base: int) -> None:
        """Note that a prompt went from its slot to nowhere: another was put into it."""
        past = self._past.get(base)
        if past is not None:
            past.in_memory = False

    def _has(self, base: int, rank: Rank) -> bool:
        """Whether a prompt of the past is believed to be held, in memory or in a file."""
        past = self._past[base]
        return bool(past.file) or (past.in_memory and self._believes(rank))

    def _believes(self, rank: Rank) -> bool:
        """Whether a prompt of the past is believed to be held."""
        known = self.shown or rank.prompts < GUESSED_DEPTH
        return bool(known) and rank.characters < self.lost_from

    def occupied(self, now: float) -> int:
        """Count the slots that somebody will come back to; prompts, where there are no slots."""
        if not self.slots:
            return min(len(self._past), PAST if self.shown else GUESSED_DEPTH)
        return sum(slot.busy or self._lives(slot, now) for slot in self.slots)

    def _superseded(self, prompt: Prompt, free: Sequence[Slot]) -> Slot | None:
        """Find the slot whose prompt nobody will come back to, as this one is what became of it."""
        found = [x for x in free if x.prompt is not None and prompt.changes(x.prompt)]
        return max(found, key=lambda x: x.used_at) if found else None

    def _sacrifice(self, slot: Slot, now: float, *, brief: bool) -> tuple[bool, float]:
        """Rank what would be lost; a side request costs nobody a long conversation."""
        if brief and slot.prompt is not None:
            return self._lives(slot, now), slot.prompt.size
        return self._lives(slot, now), slot.worth(now)

    def _lives(self, slot: Slot, now: float) -> bool:
        return (
            slot.prompt is not None
            and slot.prompt.size >= WORTH_KEEPING
            and now - slot.used_at < self._stale_after
        )

    def _recall(self, prompt: Prompt) -> int:
        """Find the longest prompt of the past that this one continues: its base, else 0."""
        past = self._past
        if past:
            for prefix in reversed(prompt.prefixes):
                if prefix in past:
                    return prefix
        return 0

    def _rank(self, base: int) -> Rank:
        """Count what has left its slot since this prompt has, with this one."""
        prompts = 0
        for prefix in reversed(self._past):
            if prefix == base:
                break
            prompts += 1
        return Rank(prompts, self._past[base].depth)

    def _remember(self, prompt: Prompt, used_at: float, pauses: list[float]) -> None:
        if prompt.size < WORTH_KEEPING:
            return
        self._forget_past(prompt.base)  # it becomes the newest
        self._add_past(prompt.base, Past(prompt.size, used_at, pauses))
        if len(self._past) > PAST:
            self._forget_past(next(iter(self._past)))

    def _add_past(self, base: int, past: Past) -> None:
        if base not in self._past:
            self._past[base] = past
            self._index.add(base, self)
            self._deepen()

    def _deepen(self) -> None:
        """Note how far the newest prompt has pushed those before it: what is lost stays lost.

        One that is larger than all the memory has pushed out everything else.
        """
        behind = 0
        for past in reversed(self._past.values()):
            if not behind or past.depth < self.lost_from:
                behind += past.size
                past.depth = max(past.depth, behind)

    def _forget_past(self, base: int) -> None:
        if base in self._past:
            self.saved.free(self._past.pop(base).file)
            self._index.discard(base, self)

    def _put(self, slot: Slot, prompt: Prompt | None) -> None:
        """Let a slot hold another prompt, or none."""
        before = () if slot.prompt is None else _hashes(slot.prompt)
        after = () if prompt is None else _hashes(prompt)
        for prefix in before:
            if prefix not in after:
                self._index.discard(prefix, slot)
        slot.prompt = prompt
        for prefix in after:
            if prefix:
                self._index.add(prefix, slot)


def _hashes(prompt: Prompt) -> tuple[int, ...]:
    """List the prefix hashes by which another prompt is known to go on where this one ended.

    There may be zeros among them, which stand for no text at all.
    """
    return prompt.whole, prompt.base, prompt.opening
