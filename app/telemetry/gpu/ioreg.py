"""The GPUs of Macs, as macOS' registry of devices tells them."""

import plistlib
import subprocess
from collections.abc import Callable
from typing import Any, Final
from xml.parsers.expat import ExpatError

from app.telemetry.gpu.reader import Gpu, GpuUnavailable

COMMAND: Final = ("ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator", "-a")
"""Lists the accelerators as a property list; `man ioreg`."""

SECONDS: Final = 5.0
"""How long it may take."""


def ask() -> bytes:
    """Run the command.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be run, or fails.
    """
    ended = subprocess.run(COMMAND, capture_output=True, check=True, timeout=SECONDS)  # noqa: S603
    return ended.stdout


class IoregReader:
    """Reads `PerformanceStatistics`; the memory is the machine's own, of which the GPU uses some.

    macOS tells neither temperature nor power to everybody.
    """

    backend = "ioreg"

    def __init__(self, ask: Callable[[], bytes] = ask) -> None:
        self._ask = ask

    def read(self) -> tuple[Gpu, ...]:
        try:
            told = plistlib.loads(self._ask())
        except FileNotFoundError as error:
            raise GpuUnavailable("library_not_found", str(error)) from error
        except (OSError, subprocess.SubprocessError) as error:
            raise GpuUnavailable("unknown", str(error)) from error
        except (plistlib.InvalidFileException, ExpatError, ValueError) as error:
            raise GpuUnavailable("unknown", f"ioreg's list cannot be read: {error}") from error
        found = told if isinstance(told, list) else []
        return tuple(_gpu(i, one) for i, one in enumerate(found) if isinstance(one, dict))

    def close(self) -> None: ...


def _gpu(index: int, accelerator: dict[str, Any]) -> Gpu:
    statistics = accelerator.get("PerformanceStatistics")
    told: dict[str, Any] = statistics if isinstance(statistics, dict) else {}
    model = accelerator.get("model")
    utilization = _count(told.get("Device Utilization %"))
    return Gpu(
        index=index,
        name=model if isinstance(model, str) else "Apple GPU",
        utilization=None if utilization is None else min(100.0, float(utilization)),
        memory_used=_count(told.get("In use system memory")),
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
