"""Prompts that a server keeps in files, from slots that were given to others."""

from typing import Final

from app.routing.model_memory import smoothed
from app.routing.prompt import Prompt

REST: Final = 600.0
"""Seconds for which a server is asked no more to save or to restore, after it could not."""


class SlotFiles:
    """What is to be done before a request goes to its slot: `save` what it holds, then `restore`.

    Both name files, and are empty where nothing is to be done; so many characters are `restoring`.
    """

    __slots__ = ("leaving", "restore", "restoring", "save", "seconds")

    def __init__(self, restore: str, restoring: int) -> None:
        self.restore = restore
        self.restoring = restoring
        self.save = ""
        self.leaving: Prompt | None = None
        """The prompt that leaves the slot."""
        self.seconds = 0.0
        """How long it took."""


class SavedPrompts:
    """The files of one server: `most` names, which are used again, as no server erases a file."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._names = 0
        self._free: list[str] = []
        self._rests_until = 0.0
        self._saving: float | None = None  # seconds, by character
        self._restoring: float | None = None

    def usable(self, now: float) -> bool:
        """Whether the server saves and restores, as far as is known."""
        return self.most > 0 and now >= self._rests_until

    def name(self) -> str:
        """Return a name that is free; empty where there is none."""
        if self._free:
            return self._free.pop()
        if self._names >= self.most:
            return ""
        self._names += 1
        return f"llama-balancer-{self._names}.bin"

    def free(self, name: str) -> None:
        """Have a name used again."""
        if name:
            self._free.append(name)

    def give_back(self, files: SlotFiles | None) -> None:
        """Have the names used again of what was not done."""
        if files is None:
            return
        self.free(files.save)
        self.free(files.restore)
        files.save = files.restore = ""

    def seconds(self, characters: int) -> float:
        """Return how long it takes to save and to restore so much text; 0 before it was seen."""
        return characters * ((self._saving or 0.0) + (self._restoring or 0.0))

    def cost(self, characters: int, reading: float, now: float) -> float:
        """Return what it costs to evict so much text, which takes some time of `reading` again."""
        seconds = self.seconds(characters)
        return min(reading, seconds) if seconds and self.usable(now) else reading

    def note_saving(self, characters: int, seconds: float) -> None:
        """Take in how long it took to save so much text."""
        self._saving = smoothed(self._saving, seconds / (characters or 1))

    def note_restoring(self, characters: int, seconds: float) -> None:
        """Take in how long it took to restore so much text."""
        self._restoring = smoothed(self._restoring, seconds / (characters or 1))

    def rest(self, now: float) -> None:
        """Note that the server could not do it."""
        self._rests_until = now + REST

    def begin_anew(self) -> None:
        """Note that the server was away: it may have been started in another way."""
        self._rests_until = 0.0
