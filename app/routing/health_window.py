"""What the last probes say about one server: idle, busy or invalid."""

from collections import deque
from dataclasses import dataclass
from typing import Literal

Status = Literal["idle", "busy", "invalid"]
Side = Literal["health", "models"]

RISE, FALL = 2, 3


@dataclass(frozen=True, slots=True)
class Sample:
    """A good response of a server's health address."""

    busy: bool
    gpu_percent: float
    at: float
    """When it came, in seconds."""


class HealthWindow:
    """The last samples of a server, and the probes that failed or succeeded in a row.

    A server has two sides that fail apart: the agent that tells its GPU load (`health`) and
    the model API itself (`models`). It is invalid while either is down. A side is down at
    once when nothing listens there, and after `fall` failures in a row otherwise: an agent
    on a busy machine may answer late. It is up again after `rise` successes in a row, or at
    once where a model request succeeds.

    The window is conservative: busy until the first sample, and as long as any sample in
    it is. A server without a health address is idle as far as anybody can tell.
    """

    __slots__ = (
        "_down",
        "_failures",
        "_fall",
        "_rise",
        "_samples",
        "_successes",
        "healthy",
        "known",
    )

    def __init__(
        self, length: int, *, has_health: bool, rise: int = RISE, fall: int = FALL
    ) -> None:
        self._samples: deque[Sample] = deque(maxlen=length)
        self._rise = rise
        self._fall = fall
        self._failures: dict[Side, int] = {"health": 0, "models": 0}
        self._successes: dict[Side, int] = {"health": 0, "models": 0}
        self._down: set[Side] = set()
        self.known = has_health
        """Whether anybody tells the GPU's load."""
        self.healthy = True
        """Whether requests may go there."""

    def change(self, length: int, *, has_health: bool, rise: int, fall: int, anew: bool) -> None:
        """Judge by other rules from now on; `anew` forgets what the agent has said."""
        said = () if anew else self._samples
        self._samples = deque(said, maxlen=length)
        self._rise = rise
        self._fall = fall
        self.known = has_health
        if anew:
            self._failures["health"] = self._successes["health"] = 0
            self._down.discard("health")
            self.healthy = not self._down

    def add(self, sample: Sample) -> None:
        """Take in a good health response."""
        self._samples.append(sample)
        self._succeeded("health", 1)

    def answered(self) -> None:
        """Note that the model API answered a probe."""
        self._succeeded("models", 1)

    def served(self) -> None:
        """Note that the model API completed a request: no probe could say more."""
        self._succeeded("models", self._rise)

    def failed(self, side: Side, *, unreachable: bool) -> None:
        """Note a failure; `unreachable` means that no connection could be made."""
        self._successes[side] = 0
        self._failures[side] = self._fall if unreachable else self._failures[side] + 1
        if self._failures[side] >= self._fall:
            self._down.add(side)
            self.healthy = False

    @property
    def last(self) -> Sample | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    @property
    def failing(self) -> bool:
        """Whether the model API's last probe failed, or it is not up again: ask it soon."""
        return self._failures["models"] > 0 or "models" in self._down

    @property
    def down(self) -> bool:
        """Whether the model API is down: another may come back."""
        return "models" in self._down

    @property
    def idle(self) -> bool:
        """Whether nothing was busy during the whole window."""
        if not self.known:
            return True
        return bool(self._samples) and not any(sample.busy for sample in self._samples)

    @property
    def status(self) -> Status:
        """One word for people and for the snapshot."""
        if not self.healthy:
            return "invalid"
        return "idle" if self.idle else "busy"

    def _succeeded(self, side: Side, by: int) -> None:
        self._failures[side] = 0
        if side not in self._down:
            return
        self._successes[side] += by
        if self._successes[side] >= self._rise:
            self._successes[side] = 0
            self._down.discard(side)
            self.healthy = not self._down
