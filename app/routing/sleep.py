"""Whether a server sleeps, and how long it takes to wake."""

from typing import Final, Literal

from app.routing.model_memory import smoothed

GUESSED: Final = 45.0
"""Seconds that waking is believed to take before it was seen."""

LONGEST: Final = 300.0
"""Seconds that a server may take to wake that was never seen to: a machine starts, and a model
server on it."""

PATIENCE: Final = 3.0
"""It may take so many times as long as it took before."""

LEAST_PATIENCE: Final = 30.0
"""At least so many seconds."""

State = Literal["settled", "falling", "waking", "failed"]
"""As the probes tell; told to sleep, and not gone yet; told to wake, and not there yet; told to
wake, and did not."""


class Sleep:
    """How far a server is from being awake."""

    def __init__(self) -> None:
        self.state: State = "settled"
        self.used_at = 0.0
        """When it was last asked for, or seen at work, in seconds; 0 before that."""
        self._began = 0.0
        self._usual: float | None = None

    def begin(self, now: float) -> None:
        """Note that it is being woken."""
        self.state = "waking"
        self._began = now

    def end(self, now: float) -> None:
        """Note that it is awake, and how long that took."""
        if self.state == "waking":
            self._usual = smoothed(self._usual, now - self._began)
        self.state = "settled"
        self.used_at = now

    @property
    def failed(self) -> bool:
        """Whether it was woken, and did not wake."""
        return self.state == "failed"

    @property
    def patience(self) -> float:
        """How many seconds it may take to wake."""
        if self._usual is None:
            return LONGEST
        return max(LEAST_PATIENCE, PATIENCE * self._usual)

    def seconds_left(self, now: float) -> float:
        """Return in how many seconds it would be awake."""
        usual = GUESSED if self._usual is None else self._usual
        return max(0.0, usual - (now - self._began)) if self.state == "waking" else usual
