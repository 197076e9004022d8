"""A stand-in for NVIDIA's `pynvml`: same names, units and errors, GPUs as a test wants them."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

import pynvml

T = TypeVar("T")


@dataclass
class Card:
    """A GPU; `errors` maps a function's name to the code that it fails with."""

    name: str | bytes = "NVIDIA GeForce RTX 4090"
    uuid: str = "GPU-1"
    load: int = 37
    used: int = 3 * 2**30
    reserved: int = 2**29
    total: int = 24 * 2**30
    degrees: int = 61
    milliwatts: int = 250_500
    millijoules: int = 1_234_000
    errors: dict[str, int] = field(default_factory=dict)


class FakeNvml:
    """The module. `lost` makes every call fail as it does once the driver is gone."""

    nvmlMemory_v2 = pynvml.nvmlMemory_v2  # noqa: N815 - the real name

    def __init__(self, *cards: Card) -> None:
        self.cards = list(cards)
        self.initialised = 0
        self.lost: int | None = None
        for name in dir(pynvml):
            if name.startswith("NVML_"):
                setattr(self, name, getattr(pynvml, name))
        self.NVMLError = pynvml.NVMLError

    def nvmlInit(self) -> None:
        self._check()
        self.initialised += 1

    def nvmlShutdown(self) -> None:
        self.initialised -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:
        self._check()
        return b"560.35.03"

    def nvmlDeviceGetCount(self) -> int:
        self._check()
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self._of(self.cards[index], "nvmlDeviceGetHandleByIndex", self.cards[index])

    def nvmlDeviceGetName(self, card: Card) -> str | bytes:
        return self._of(card, "nvmlDeviceGetName", card.name)

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return self._of(card, "nvmlDeviceGetUUID", card.uuid)

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> Any:
        rates = SimpleNamespace(gpu=card.load, memory=0)
        return self._of(card, "nvmlDeviceGetUtilizationRates", rates)

    def nvmlDeviceGetMemoryInfo(self, card: Card, version: int | None = None) -> Any:
        used = card.used if version else card.used + card.reserved
        memory = SimpleNamespace(used=used, total=card.total, free=card.total - used)
        memory = self._of(card, "nvmlDeviceGetMemoryInfo", memory)
        return self._of(card, "nvmlDeviceGetMemoryInfo_v2", memory) if version else memory

    def nvmlDeviceGetTemperature(self, card: Card, sensor: int) -> int:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._of(card, "nvmlDeviceGetTemperature", card.degrees)

    def nvmlDeviceGetPowerUsage(self, card: Card) -> int:
        return self._of(card, "nvmlDeviceGetPowerUsage", card.milliwatts)

    def nvmlDeviceGetTotalEnergyConsumption(self, card: Card) -> int:
        return self._of(card, "nvmlDeviceGetTotalEnergyConsumption", card.millijoules)

    def _of(self, card: Card, function: str, value: T) -> T:
        self._check()
        if function in card.errors:
            raise pynvml.NVMLError(card.errors[function])
        return value

    def _check(self) -> None:
        if self.lost is not None:
            raise pynvml.NVMLError(self.lost)
