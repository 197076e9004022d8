"""A reader of one GPU that never changes."""

from app.telemetry.gpu.reader import Gpu


class OneGpu:
    """A `GpuReader`."""

    backend = "nvml"

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def read(self) -> tuple[Gpu, ...]:
        return (self._gpu,)

    def close(self) -> None: ...
