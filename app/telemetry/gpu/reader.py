"""What a GPU reports, and how it is read."""

from dataclasses import dataclass
from typing import Literal, Protocol

Reason = Literal["library_not_found", "driver_mismatch", "no_permission", "lost", "unknown"]
"""Why GPUs cannot be read; a closed list, so that it can label a metric."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU at one moment. None means that the driver does not report it; it never means zero."""

    index: int
    name: str | None = None
    uuid: str | None = None
    utilization: float | None = None
    """Percent, 0 to 100."""
    memory_used: int | None = None
    """Bytes."""
    memory_total: int | None = None
    """Bytes."""
    temperature: float | None = None
    """Degrees Celsius."""
    power: float | None = None
    """Watts."""
    energy: float | None = None
    """Joules since the driver was loaded."""
    driver_version: str | None = None


class GpuUnavailable(Exception):
    """The GPUs cannot be read at present. The next read may succeed."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason: Reason = reason


class GpuReader(Protocol):
    """A way to read GPUs. One thread uses it, and each call may take as long as a driver likes."""

    @property
    def backend(self) -> str:
        """A short name for logs and metrics."""

    def read(self) -> tuple[Gpu, ...] | None:
        """Read all GPUs, or None where a rate still needs a second look.

        Raises GpuUnavailable; the reader starts afresh at the next call.
        """

    def close(self) -> None:
        """Release what the driver holds for us; never raises, and `read` opens it again."""


class NoReader:
    """The reader of a machine that has no GPU library: no GPUs, and no complaint."""

    backend = "none"

    def read(self) -> tuple[Gpu, ...]:
        return ()

    def close(self) -> None: ...
