"""AMD GPUs, read from the files that Linux's amdgpu driver shows."""

from contextlib import suppress
from pathlib import Path
from typing import Final

from app.telemetry.gpu.reader import Gpu, GpuUnavailable

DRM: Final = Path("/sys/class/drm")
"""A folder `card0` for each GPU, and others for its outputs."""

AMD: Final = "0x1002"
"""The vendor's number on the PCI bus."""


class AmdgpuReader:
    """Reads what is below `/sys/class/drm/card*/device`.

    `gpu_busy_percent`, memory in bytes, and what the hardware monitor has, in thousandths of a
    degree and millionths of a watt: https://docs.kernel.org/gpu/amdgpu/thermal.html and
    https://docs.kernel.org/gpu/amdgpu/driver-misc.html. Processors with graphics have
    `power1_input` in place of `power1_average`. What a card does not show is None.
    """

    backend = "amdgpu"

    def __init__(self, drm: Path = DRM) -> None:
        self._drm = drm

    def found(self) -> bool:
        """Whether there is a GPU that tells its load."""
        return any((device / "gpu_busy_percent").exists() for device in self._devices())

    def read(self) -> tuple[Gpu, ...]:
        gpus = tuple(_gpu(index, device) for index, device in enumerate(self._devices()))
        if not gpus:
            raise GpuUnavailable("lost", f"there is no card of AMD's left in {self._drm}")
        return gpus

    def close(self) -> None: ...

    def _devices(self) -> list[Path]:
        cards = [path for path in self._drm.glob("card*") if path.name[4:].isdigit()]
        devices = [path / "device" for path in sorted(cards, key=lambda path: int(path.name[4:]))]
        return [device for device in devices if _text(device / "vendor") == AMD]


def _gpu(index: int, device: Path) -> Gpu:
    monitor = next(iter(sorted(device.glob("hwmon/hwmon*"))), device / "hwmon")
    power = _number(monitor / "power1_average")
    if power is None:
        power = _number(monitor / "power1_input")
    temperature = _number(monitor / "temp1_input")
    return Gpu(
        index=index,
        name=_text(device / "product_name") or "AMD GPU",
        uuid=_text(device / "unique_id"),
        utilization=_number(device / "gpu_busy_percent"),
        memory_used=_number(device / "mem_info_vram_used"),
        memory_total=_number(device / "mem_info_vram_total"),
        temperature=None if temperature is None else temperature / 1000,
        power=None if power is None else power / 1_000_000,
    )


def _text(file: Path) -> str | None:
    """Read a file; some are there and cannot be read while the card sleeps."""
    with suppress(OSError, UnicodeDecodeError):
        return file.read_text("ascii").strip() or None
    return None


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text is not None and text.isdecimal() else None
