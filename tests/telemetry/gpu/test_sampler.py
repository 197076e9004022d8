import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from app.telemetry.gpu.find import find_reader
from app.telemetry.gpu.reader import Gpu, GpuUnavailable, NoReader
from app.telemetry.gpu.sampler import GpuSampler
from tests.fakes.clock import Clock
from tests.fakes.nvml import FakeNvml
from tests.fakes.pdh import FakePdh


class Reader:
    """A reader that answers, or fails, as a test wants."""

    backend = "fake"

    def __init__(self, *loads: float | None) -> None:
        self.loads: tuple[float | None, ...] = loads
        self.failure: Exception | None = None
        self.closed = False

    def read(self) -> tuple[Gpu, ...]:
        if self.failure is not None:
            raise self.failure
        return tuple(Gpu(i, utilization=load) for i, load in enumerate(self.loads))

    def close(self) -> None:
        self.closed = True


def sampler(reader: Any, clock: Clock | None = None) -> GpuSampler:
    return GpuSampler(reader, clock=clock or Clock())


def test_without_a_gpu_library_the_machine_is_idle() -> None:
    found = sampler(NoReader())

    assert found.health() == {"status": "idle", "gpu_util_max5s": 0.0, "window_seconds": 5}
    assert (found.up, found.gpus) == (None, ())


@pytest.mark.parametrize(("load", "status"), [(49.0, "idle"), (50.0, "busy"), (100.0, "busy")])
def test_half_a_gpu_is_busy(load: float, status: str) -> None:
    found = sampler(Reader(1.0, load))
    found.sample_once()

    assert found.health() == {"status": status, "gpu_util_max5s": load, "window_seconds": 5}


def test_the_highest_load_of_the_last_five_seconds_counts() -> None:
    clock = Clock()
    reader = Reader(80.0)
    found = sampler(reader, clock)
    found.sample_once()
    reader.loads = (3.0,)
    statuses = []
    for _ in range(6):
        clock.tick(1)
        found.sample_once()
        statuses.append(found.status)

    assert statuses == ["busy"] * 5 + ["idle"]


def test_what_is_not_known_counts_as_busy() -> None:
    found = sampler(Reader(0.0))
    assert found.health()["status"] == "busy"
    found.sample_once()
    assert found.health()["status"] == "idle"
    silent = sampler(Reader(None))
    silent.sample_once()
    assert (silent.health()["status"], silent.health()["gpu_util_max5s"]) == ("busy", 100.0)


def test_a_lost_driver_degrades_to_unknown_and_comes_back() -> None:
    clock = Clock()
    reader = Reader(10.0)
    found = sampler(reader, clock)
    found.sample_once()
    assert found.up
    reader.failure = GpuUnavailable("lost")
    clock.tick(6)
    found.sample_once()
    assert (found.up, found.gpus, found.status) == (False, (), "busy")
    assert found.errors["lost"] == 1
    reader.failure = None
    found.sample_once()

    assert (found.up, found.status) == (True, "idle")


def test_any_fault_of_a_reader_is_counted_and_never_raised() -> None:
    reader = Reader()
    reader.failure = ZeroDivisionError()
    found = sampler(reader)
    found.sample_once()

    assert found.errors["unknown"] == 1


def test_readings_that_hang_grow_old() -> None:
    clock = Clock()
    found = sampler(Reader(10.0), clock)
    found.sample_once()
    clock.tick(5.1)

    assert (found.up, found.gpus, found.status) == (False, (), "busy")


def test_the_thread_samples_until_it_is_stopped_and_closes_the_reader() -> None:
    twice = threading.Event()

    class Counting(Reader):
        reads = 0

        def read(self) -> tuple[Gpu, ...]:
            self.reads += 1
            if self.reads == 2:
                twice.set()
            return super().read()

    reader = Counting(1.0)
    found = GpuSampler(reader, interval=0.001)
    found.start()
    found.start()
    assert twice.wait(10)
    found.stop()

    assert reader.closed
    found.stop()


def test_a_driver_call_that_hangs_holds_up_neither_health_nor_the_stop() -> None:
    hangs, go = threading.Event(), threading.Event()

    class Hanging(Reader):
        def read(self) -> tuple[Gpu, ...]:
            hangs.set()
            go.wait()
            return super().read()

    found = GpuSampler(Hanging(1.0))
    found.start()
    assert hangs.wait(10)
    assert found.health()["status"] == "busy"
    found.stop()
    go.set()


def loading(**modules: Any) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        if name in modules:
            return modules[name]
        raise ImportError(name)

    return load


def dlopen(_: str) -> object:
    return ModuleType("library")


def no_library(_: str) -> object:
    raise OSError


def test_linux_asks_nvidias_library_where_there_is_one() -> None:
    found = find_reader("linux", load=loading(pynvml=FakeNvml()), dlopen=dlopen)
    assert found.backend == "nvml"
    assert find_reader("linux", load=loading(), dlopen=dlopen).backend == "none"
    missing = find_reader("linux", load=loading(pynvml=FakeNvml()), dlopen=no_library)
    assert missing.backend == "none"


def test_windows_asks_the_performance_counters() -> None:
    pdh = FakePdh()
    assert find_reader("win32", load=loading(win32pdh=pdh)).backend == "pdh"
    assert pdh.queries == {}
    pdh.fails = {"AddEnglishCounter": 0xC0000BB8}
    assert find_reader("win32", load=loading(win32pdh=pdh)).backend == "none"
    assert find_reader("win32", load=loading()).backend == "none"
