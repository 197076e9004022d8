import pytest

from app.telemetry.gpu.pdh import PdhReader
from app.telemetry.gpu.reader import Gpu, GpuUnavailable
from tests.fakes.pdh import FakePdh

FIRST = "luid_0x00000000_0x0000C1A5_phys_0"
SECOND = "luid_0x00000000_0x0000D000_phys_0"


def engine(adapter: str, process: int = 1, kind: str = "3D", number: int = 0) -> str:
    return f"pid_{process}_{adapter}_eng_{number}_engtype_{kind}"


def read(pdh: FakePdh) -> dict[str | None, float | None]:
    reader = PdhReader(pdh)
    assert reader.read() is None  # a rate needs a second look
    gpus = reader.read()
    assert gpus is not None
    return {gpu.uuid: gpu.utilization for gpu in gpus}


def test_a_gpus_load_is_the_sum_over_its_engines_and_processes() -> None:
    processes = {engine(FIRST): 20.0, engine(FIRST, 2): 15.5, engine(FIRST, 2, "Copy", 1): 4.5}

    assert read(FakePdh(processes | {engine(SECOND): 3.0})) == {FIRST: 40.0, SECOND: 3.0}


def test_the_sum_is_capped_at_a_hundred() -> None:
    assert read(FakePdh({engine(FIRST): 80.0, engine(FIRST, 2): 70.0})) == {FIRST: 100.0}


def test_values_that_no_percentage_can_be_are_left_out() -> None:
    assert read(FakePdh({engine(FIRST): 12.0, engine(FIRST, 2): -1.0, engine(FIRST, 3): 1e9})) == {
        FIRST: 12.0
    }


def test_the_query_stays_open_between_samples_while_processes_come_and_go() -> None:
    pdh = FakePdh({engine(FIRST): 1.0})
    reader = PdhReader(pdh)
    reader.read()
    reader.read()
    pdh.processes = {engine(SECOND, 9): 2.0}

    gpus = reader.read()

    assert pdh.opened == 1
    assert gpus == (Gpu(index=1, uuid=SECOND, utilization=2.0),)
    reader.close()
    assert pdh.queries == {}


def test_a_collection_that_does_not_fit_the_one_before_is_no_failure() -> None:
    pdh = FakePdh({engine(FIRST): 1.0})
    reader = PdhReader(pdh)
    reader.read()
    pdh.fails = {"GetFormattedCounterArray": 0x800007D8}
    assert reader.read() is None
    pdh.fails = {}

    assert reader.read() is None
    assert reader.read() is not None


@pytest.mark.parametrize(
    ("function", "status", "reason"),
    [
        ("AddEnglishCounter", 0xC0000BB8, "library_not_found"),
        ("CollectQueryData", 0x800007D5, "lost"),
        ("OpenQuery", 0x00000005, "no_permission"),
        ("CollectQueryData", 0xDEADBEEF, "unknown"),
    ],
)
def test_a_failure_is_told_with_its_reason_and_the_next_read_begins_anew(
    function: str, status: int, reason: str
) -> None:
    pdh = FakePdh({engine(FIRST): 1.0})
    reader = PdhReader(pdh)
    pdh.fails = {function: status}
    with pytest.raises(GpuUnavailable) as failure:
        reader.read()
    assert failure.value.reason == reason
    assert pdh.queries == {}
    pdh.fails = {}

    assert reader.read() is None
    assert reader.read() is not None
