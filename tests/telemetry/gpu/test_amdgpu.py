from pathlib import Path

import pytest

from app.telemetry.gpu.amdgpu import AmdgpuReader
from app.telemetry.gpu.find import find_reader
from app.telemetry.gpu.reader import Gpu, GpuUnavailable

RX_7900 = {
    "vendor": "0x1002\n",
    "gpu_busy_percent": "37\n",
    "mem_info_vram_total": "25753026560\n",
    "mem_info_vram_used": "18253611008\n",
    "unique_id": "a3b1c5d7e9f00112\n",
    "hwmon/hwmon4/temp1_input": "58000\n",
    "hwmon/hwmon4/power1_average": "213000000\n",
}
"""What a card of the RX 7000s shows."""

RYZEN = {
    "vendor": "0x1002\n",
    "gpu_busy_percent": "4\n",
    "mem_info_vram_total": "536870912\n",
    "mem_info_vram_used": "104857600\n",
    "hwmon/hwmon2/temp1_input": "41000\n",
    "hwmon/hwmon2/power1_input": "12034000\n",
}
"""What the graphics of a processor show."""


def tree(folder: Path, **cards: dict[str, str]) -> Path:
    """Write a folder as `/sys/class/drm` has them."""
    for card, files in cards.items():
        for name, text in files.items():
            file = folder / card / "device" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    (folder / "card0-DP-1").mkdir(parents=True)
    (folder / "renderD128").mkdir()
    return folder


def test_a_card_is_read_in_percent_bytes_degrees_and_watts(tmp_path: Path) -> None:
    [gpu] = AmdgpuReader(tree(tmp_path, card0=RX_7900)).read()

    assert gpu == Gpu(
        index=0,
        name="AMD GPU",
        uuid="a3b1c5d7e9f00112",
        utilization=37,
        memory_used=18253611008,
        memory_total=25753026560,
        temperature=58.0,
        power=213.0,
    )


def test_graphics_in_a_processor_have_their_own_name_for_power(tmp_path: Path) -> None:
    [gpu] = AmdgpuReader(tree(tmp_path, card1=RYZEN)).read()

    assert (gpu.power, gpu.uuid) == (12.034, None)


def test_cards_are_in_the_order_of_their_numbers_and_others_left_out(tmp_path: Path) -> None:
    intel = {"vendor": "0x8086\n"}
    cards = {"card10": RYZEN, "card2": RX_7900, "card0": intel}

    gpus = AmdgpuReader(tree(tmp_path, **cards)).read()

    assert [(gpu.index, gpu.utilization) for gpu in gpus] == [(0, 37), (1, 4)]


def test_what_a_card_does_not_tell_is_unknown_and_not_zero(tmp_path: Path) -> None:
    [gpu] = AmdgpuReader(tree(tmp_path, card0={"vendor": "0x1002\n", "unique_id": "\n"})).read()

    assert gpu == Gpu(index=0, name="AMD GPU")


def test_cards_that_are_gone_are_lost(tmp_path: Path) -> None:
    with pytest.raises(GpuUnavailable) as failure:
        AmdgpuReader(tmp_path).read()

    assert failure.value.reason == "lost"


def test_the_files_are_read_where_nvidia_s_library_is_missing(tmp_path: Path) -> None:
    def missing(_: str) -> object:
        raise OSError

    there = tree(tmp_path / "there", card0=RX_7900)
    assert find_reader("linux", dlopen=missing, drm=there).backend == "amdgpu"
    assert find_reader("linux", dlopen=missing, drm=tmp_path / "none").backend == "none"
