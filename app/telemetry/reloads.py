"""What came of reading the settings again."""

import time
from collections.abc import Sequence


class Reloads:
    """Remembers the last reload, for whoever watches; the start counts as one that succeeded."""

    def __init__(self) -> None:
        self.successful = True
        self.succeeded_at = time.time()
        """When settings were taken in last, in seconds since 1970."""
        self.changed: tuple[str, ...] = ()
        """What is otherwise since then, a line each."""
        self.needs_restart: tuple[str, ...] = ()
        """Variables that are written otherwise now, but hold from the next start on."""
        self.mistakes: tuple[str, ...] = ()
        """What was wrong with the settings that were refused last, until others are taken in."""

    def took(self, changed: Sequence[str], needs_restart: Sequence[str]) -> None:
        """Note that settings were taken in."""
        self.successful = True
        self.succeeded_at = time.time()
        self.changed = tuple(changed)
        self.needs_restart = tuple(needs_restart)
        self.mistakes = ()

    def refused(self, mistakes: Sequence[str]) -> None:
        """Note that settings were refused as a whole, and why."""
        self.successful = False
        self.changed = ()
        self.mistakes = tuple(mistakes)

    def told(self) -> dict[str, object]:
        """Return what came of the last one, for whoever asked for it."""
        return {
            "successful": self.successful,
            "changed": list(self.changed),
            "needs_restart": list(self.needs_restart),
            "mistakes": list(self.mistakes),
        }
