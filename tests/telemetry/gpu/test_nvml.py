import pynvml
import pytest

from app.telemetry.gpu.nvml import NvmlReader
from app.telemetry.gpu.reader import GpuUnavailable
from tests.fakes.nvml import Card, FakeNvml


def test_every_fact_of_every_gpu_is_read_in_base_units() -> None:
    first, second = NvmlReader(FakeNvml(Card(), Card(name=b"NVIDIA A2", uuid="GPU-2"))).read()

    assert (first.index, first.name, first.uuid) == (0, "NVIDIA GeForce RTX 4090", "GPU-1")
    assert (first.utilization, first.memory_used, first.memory_total) == (37, 3 << 30, 24 << 30)
    assert (first.temperature, first.power, first.energy) == (61, 250.5, 1234.0)
    assert first.driver_version == "560.35.03"
    assert (second.index, second.name) == (1, "NVIDIA A2")


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ("nvmlDeviceGetUtilizationRates", "utilization"),
        ("nvmlDeviceGetMemoryInfo", "memory_used"),
        ("nvmlDeviceGetTemperature", "temperature"),
        ("nvmlDeviceGetPowerUsage", "power"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy"),
        ("nvmlDeviceGetName", "name"),
        ("nvmlDeviceGetUUID", "uuid"),
    ],
)
def test_a_field_that_a_gpu_does_not_support_is_missing_and_the_others_are_not(
    function: str, field: str
) -> None:
    card = Card(errors={function: pynvml.NVML_ERROR_NOT_SUPPORTED})

    [gpu] = NvmlReader(FakeNvml(card)).read()

    assert getattr(gpu, field) is None
    others = {"utilization", "temperature", "power", "name"} - {field}
    assert all(getattr(gpu, other) is not None for other in others)


def test_a_blank_that_a_driver_answers_with_is_no_value() -> None:
    [gpu] = NvmlReader(FakeNvml(Card(load=2**32 - 1, degrees=2**32 - 1, used=2**64 - 1))).read()

    assert (gpu.utilization, gpu.temperature, gpu.memory_used) == (None, None, None)


def test_an_older_driver_counts_its_own_memory_as_used() -> None:
    errors = {"nvmlDeviceGetMemoryInfo_v2": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}

    [gpu] = NvmlReader(FakeNvml(Card(reserved=1 << 29, errors=errors))).read()

    assert gpu.memory_used == (3 << 30) + (1 << 29)


def test_a_gpu_that_we_may_not_open_is_left_out() -> None:
    refused = {"nvmlDeviceGetHandleByIndex": pynvml.NVML_ERROR_NO_PERMISSION}

    [gpu] = NvmlReader(FakeNvml(Card(errors=refused), Card(uuid="GPU-2"))).read()

    assert (gpu.index, gpu.uuid) == (1, "GPU-2")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "library_not_found"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "driver_mismatch"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no_permission"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, "lost"),
        (pynvml.NVML_ERROR_UNKNOWN, "unknown"),
    ],
)
def test_a_driver_that_fails_is_told_with_its_reason(code: int, reason: str) -> None:
    nvml = FakeNvml(Card())
    nvml.lost = code

    with pytest.raises(GpuUnavailable) as failure:
        NvmlReader(nvml).read()

    assert failure.value.reason == reason


def test_a_driver_that_was_lost_is_initialised_again_when_it_is_back() -> None:
    nvml = FakeNvml(Card())
    reader = NvmlReader(nvml)
    reader.read()
    nvml.lost = pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(GpuUnavailable):
        reader.read()
    assert nvml.initialised == 0
    nvml.lost = None

    assert len(reader.read()) == 1
    assert nvml.initialised == 1
    reader.close()
    reader.close()
    assert nvml.initialised == 0


def test_the_real_module_has_every_name_that_we_use() -> None:
    ours = {name for name in dir(FakeNvml) if name.startswith("nvml")}

    assert ours <= set(dir(pynvml))
    NvmlReader(pynvml)  # takes the constants
