"""Text goes out in the order it came, or is dropped and counted; nobody waits for its reader."""

import os
from collections.abc import Iterator

import pytest

from app.telemetry.log_writer import BACKLOG, LogWriter, dropped

LINE = "x" * 1023 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        try:
            os.close(end)
        except OSError:
            continue


def read(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, size - len(data))
    return data


def test_lines_come_in_their_order(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1])
    lines = [f"{number}\n" for number in range(1000)]
    for line in lines:
        writer.write(line)
    writer.finish(10)

    text = "".join(lines).encode()
    assert read(pipe[0], len(text)) == text


def test_what_nobody_reads_is_dropped_and_told_once_somebody_does(pipe: tuple[int, int]) -> None:
    told: list[int] = []
    writer = LogWriter(pipe[1], told.append)
    before, lines = dropped["lines"], 2 * BACKLOG // len(LINE)
    for _ in range(lines):
        writer.write(LINE)
    lost = dropped["lines"] - before
    assert 0 < lost < lines

    assert read(pipe[0], (lines - lost) * len(LINE)).endswith(b"x\n")
    writer.finish(10)
    writer.write("there\n")
    assert sum(told) == lost
    assert read(pipe[0], len("there\n")) == b"there\n"


def test_a_closed_pipe_is_no_fault(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    writer = LogWriter(pipe[1])
    writer.write(LINE)
    writer.finish(10)
    writer.write(LINE)
    writer.finish(10)


def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    writer = LogWriter(pipe[1])
    for _ in range(200):
        writer.write(LINE)

    assert read(pipe[0], 200 * len(LINE)) == LINE.encode() * 200


def test_half_a_surrogate_pair_is_written_as_an_escape(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1])
    writer.write("\ud800\n")

    assert read(pipe[0], 7) == b"\\ud800\n"
