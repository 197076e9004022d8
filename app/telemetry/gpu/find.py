"""Which reader this machine's GPUs need."""

import sys
from collections.abc import Callable
from ctypes import CDLL
from importlib import import_module
from pathlib import Path
from typing import Any

from app.telemetry.gpu.amdgpu import DRM, AmdgpuReader
from app.telemetry.gpu.ioreg import IoregReader
from app.telemetry.gpu.nvml import LIBRARY, NvmlReader
from app.telemetry.gpu.pdh import PdhReader
from app.telemetry.gpu.reader import GpuReader, GpuUnavailable, NoReader


def find_reader(
    platform: str = sys.platform,
    *,
    load: Callable[[str], Any] = import_module,
    dlopen: Callable[[str], object] = CDLL,
    drm: Path = DRM,
) -> GpuReader:
    """Pick the reader for this machine.

    Windows has counters for the GPUs of every vendor, and macOS a registry of devices. On Linux
    NVIDIA's library is asked, else the files below `drm` that AMD's driver shows. The library is
    only looked for here, not called: a driver that hangs must not stop the program's start.
    `load` imports a module and `dlopen` opens a shared library.
    """
    if platform == "darwin":
        return IoregReader()
    if platform == "win32":
        return _on_windows(load)
    try:
        dlopen(LIBRARY)
        return NvmlReader(load("pynvml"))
    except (ImportError, OSError):
        amd = AmdgpuReader(drm)
        return amd if amd.found() else NoReader()


def _on_windows(load: Callable[[str], Any]) -> GpuReader:
    try:
        reader = PdhReader(load("win32pdh"))
    except ImportError:
        return NoReader()
    try:
        reader.read()
    except GpuUnavailable as failure:
        # A Windows without GPU counters stays without; anything else may pass.
        if failure.reason == "library_not_found":
            return NoReader()
    # A rate over the moment until the first sample would say nothing: the sampler begins anew.
    reader.close()
    return reader
