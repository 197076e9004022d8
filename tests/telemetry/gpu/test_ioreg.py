import plistlib
import subprocess

import pytest

from app.telemetry.gpu.find import find_reader
from app.telemetry.gpu.ioreg import IoregReader
from app.telemetry.gpu.reader import Gpu, GpuUnavailable

M2: dict[str, object] = {
    "IOClass": "AGXAcceleratorG14X",
    "model": "Apple M2 Max",
    "gpu-core-count": 38,
    "PerformanceStatistics": {
        "Device Utilization %": 62,
        "Renderer Utilization %": 61,
        "Tiler Utilization %": 12,
        "In use system memory": 21474836480,
        "Alloc system memory": 42949672960,
    },
}
"""What a Mac tells of its GPU, without what is not read."""


def reader(*accelerators: object) -> IoregReader:
    return IoregReader(lambda: plistlib.dumps([*accelerators]))


def test_a_mac_s_gpu_is_read_in_percent_and_bytes() -> None:
    assert reader(M2).read() == (
        Gpu(index=0, name="Apple M2 Max", utilization=62.0, memory_used=21474836480),
    )


def test_what_is_not_told_is_unknown_and_not_zero() -> None:
    assert reader({}).read() == (Gpu(index=0, name="Apple GPU"),)
    broken = {"PerformanceStatistics": {"Device Utilization %": "x", "In use system memory": -1}}
    assert reader(broken).read() == (Gpu(index=0, name="Apple GPU"),)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (FileNotFoundError("ioreg"), "library_not_found"),
        (subprocess.TimeoutExpired("ioreg", 5), "unknown"),
        (subprocess.CalledProcessError(1, "ioreg"), "unknown"),
    ],
)
def test_a_command_that_fails_is_told(failure: Exception, reason: str) -> None:
    def fail() -> bytes:
        raise failure

    with pytest.raises(GpuUnavailable) as told:
        IoregReader(fail).read()

    assert told.value.reason == reason


@pytest.mark.parametrize("text", [b"", b"no list", b"<plist><dict/></plist", b"\xff"])
def test_what_is_no_list_is_told(text: bytes) -> None:
    with pytest.raises(GpuUnavailable):
        IoregReader(lambda: text).read()


def test_macs_have_that_reader() -> None:
    assert find_reader("darwin").backend == "ioreg"
