"""Which reader this machine's GPUs need."""

import sys
from collections.abc import Callable
from ctypes import CDLL
from importlib import import_module
from typing import Any

from app.telemetry.gpu.nvml import LIBRARY, NvmlReader
from app.telemetry.gpu.pdh import PdhReader
from app.telemetry.gpu.reader import GpuReader, GpuUnavailable, NoReader


def find_reader(
    platform: str = sys.platform,
    *,
    load: Callable[[str], Any] = import_module,
    dlopen: Callable[[str], object] = CDLL,
) -> GpuReader:
    """Pick the reader for this machine.

    Windows has counters for the GPUs of every vendor; elsewhere NVIDIA's library is asked. It
    is only looked for here, not called: a driver that hangs must not stop the program's start.
    `load` imports a module and `dlopen` opens a shared library.
    """
    try:
        if platform != "win32":
            dlopen(LIBRARY)
            return NvmlReader(load("pynvml"))
        reader = PdhReader(load("win32pdh"))
    except (ImportError, OSError):
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
