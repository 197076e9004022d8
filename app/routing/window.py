"""What the last probes say about one server: idle, busy or invalid."""

from collections import deque
from dataclasses import dataclass
from typing import Literal

Status = Literal["idle", "busy", "invalid"]
Side = Literal["health", "models"]

STRIKES = 3
"""Failures in a row, on one side, that make a server invalid."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A good answer of a server's health address."""

    busy: bool
    gpu_percent: float
    at: float
    """When it came, in seconds since the epoch."""


class Window:
    """The last samples of a server, and the failures since.

    A server has two sides that fail apart: the agent that tells its GPU load (`health`) and
    the model API itself (`models`). It is invalid while either is down. A side is down at
    once when nothing listens there, and after three failures in a row otherwise: an agent
    on a busy machine may answer late.

    The window is conservative: busy until the first sample, and as long as any sample in
    it is. A server without a health address is idle as far as anybody can tell.
    """

    __slots__ = ("_samples", "_senseless", "_strikes", "valid")

    def __init__(self, length: int, *, has_health: bool) -> None:
        self._samples: deque[Sample] = deque(maxlen=length)
        self._strikes: dict[Side, int] = {"health": 0, "models": 0}
        self._senseless = not has_health
        self.valid = True
        """Whether requests may go there."""

    def add(self, sample: Sample) -> None:
        """Take in a good health answer."""
        self._samples.append(sample)
        self._strike("health", 0)

    def answered(self) -> None:
        """Note that the model API answered."""
        self._strike("models", 0)

    def failed(self, side: Side, *, unreachable: bool) -> None:
        """Note a failure; `unreachable` means that no connection could be made."""
        self._strike(side, STRIKES if unreachable else self._strikes[side] + 1)

    @property
    def last(self) -> Sample | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    @property
    def troubled(self) -> bool:
        """Whether the model API's last answer was a failure: ask it again soon."""
        return self._strikes["models"] > 0

    @property
    def gone(self) -> bool:
        """Whether the model API is down: another may come back."""
        return self._strikes["models"] >= STRIKES

    @property
    def idle(self) -> bool:
        """Whether nothing was busy during the whole window."""
        if self._senseless:
            return True
        return bool(self._samples) and not any(sample.busy for sample in self._samples)

    @property
    def status(self) -> Status:
        """One word for people and for the snapshot."""
        if not self.valid:
            return "invalid"
        return "idle" if self.idle else "busy"

    def _strike(self, side: Side, strikes: int) -> None:
        self._strikes[side] = strikes
        self.valid = max(self._strikes.values()) < STRIKES
