"""NVIDIA GPUs, read through the management library that comes with the driver."""

from contextlib import suppress
from typing import Any

from app.telemetry.gpu.reader import Gpu, GpuUnavailable, Reason

LIBRARY = "libnvidia-ml.so.1"
"""What NVIDIA's driver installs, and its container toolkit mounts."""

MOST_MEMORY = 1 << 50  # bytes
MOST_DEGREES = 200
MOST_MILLIWATTS = 100_000_000
MOST_MILLIJOULES = 1 << 60


class NvmlReader:
    """Reads GPUs through `nvml`, which is NVIDIA's `pynvml` module or one that acts like it.

    A field that a GPU, a driver or WSL does not support is None, and so is a blank: some
    drivers answer with the highest number that fits instead of an error. GPUs that this
    process has no permission for are left out. Anything else that fails is a failure of the
    driver: the library is shut down, and initialised afresh at the next read. What each
    function returns, and in which unit: https://docs.nvidia.com/deploy/nvml-api/
    """

    backend = "nvml"

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._initialised = False
        self._absent = {
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_NO_PERMISSION,
            nvml.NVML_ERROR_NOT_FOUND,
            nvml.NVML_ERROR_NO_DATA,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,  # an older driver
            nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
            nvml.NVML_ERROR_DEPRECATED,
        }
        self._reasons: dict[int, Reason] = {
            nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "library_not_found",
            nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "driver_mismatch",
            nvml.NVML_ERROR_NO_PERMISSION: "no_permission",
            nvml.NVML_ERROR_UNINITIALIZED: "lost",
            nvml.NVML_ERROR_DRIVER_NOT_LOADED: "lost",
            nvml.NVML_ERROR_GPU_IS_LOST: "lost",
            nvml.NVML_ERROR_RESET_REQUIRED: "lost",
        }

    def read(self) -> tuple[Gpu, ...]:
        nvml = self._nvml
        try:
            if not self._initialised:
                nvml.nvmlInit()
                self._initialised = True
            driver = self._field("nvmlSystemGetDriverVersion")
            return tuple(self._gpu(i, handle, _text(driver)) for i, handle in self._handles())
        except nvml.NVMLError as error:
            self.close()
            raise GpuUnavailable(self._reasons.get(error.value, "unknown"), str(error)) from error

    def close(self) -> None:
        if self._initialised:
            self._initialised = False
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _handles(self) -> list[tuple[int, Any]]:
        nvml = self._nvml
        handles = []
        refusal = None
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handles.append((index, nvml.nvmlDeviceGetHandleByIndex(index)))
            except nvml.NVMLError as error:
                if error.value != nvml.NVML_ERROR_NO_PERMISSION:
                    raise
                refusal = error
        if refusal is not None and not handles:
            raise refusal
        return handles

    def _gpu(self, index: int, handle: Any, driver: str | None) -> Gpu:
        rates = self._field("nvmlDeviceGetUtilizationRates", handle)
        memory = self._memory(handle)
        core = self._nvml.NVML_TEMPERATURE_GPU
        degrees = self._field("nvmlDeviceGetTemperature", handle, core)
        milliwatts = self._field("nvmlDeviceGetPowerUsage", handle)
        millijoules = self._field("nvmlDeviceGetTotalEnergyConsumption", handle)
        return Gpu(
            index=index,
            name=_text(self._field("nvmlDeviceGetName", handle)),
            uuid=_text(self._field("nvmlDeviceGetUUID", handle)),
            utilization=_sane(rates and rates.gpu, 100),
            memory_used=_sane(memory and memory.used, MOST_MEMORY),
            memory_total=_sane(memory and memory.total, MOST_MEMORY),
            temperature=_sane(degrees, MOST_DEGREES),
            power=_thousandth(_sane(milliwatts, MOST_MILLIWATTS)),
            energy=_thousandth(_sane(millijoules, MOST_MILLIJOULES)),
            driver_version=driver,
        )

    def _memory(self, handle: Any) -> Any:
        """Return what is used and what there is, in bytes, as `nvidia-smi` shows it.

        The first version of the call counts what the driver keeps for itself as used, half a
        gigabyte of an idle H100; drivers before 510 have only that one.
        """
        function = "nvmlDeviceGetMemoryInfo"
        memory = self._field(function, handle, self._nvml.nvmlMemory_v2)
        return memory or self._field(function, handle)

    def _field(self, function: str, *arguments: Any) -> Any:
        """Call one of the library's functions; None where it has no response."""
        ask = getattr(self._nvml, function, None)  # NVIDIA drops what it has deprecated
        if ask is None:
            return None
        try:
            return ask(*arguments)
        except self._nvml.NVMLError as error:
            if error.value in self._absent:
                return None
            raise


def _text(raw: str | bytes | None) -> str | None:
    # Which of the two comes has changed from release to release of the module.
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw


def _sane(raw: int | None, most: int) -> int | None:
    return raw if raw is not None and 0 <= raw <= most else None


def _thousandth(raw: int | None) -> float | None:
    return None if raw is None else raw / 1000
