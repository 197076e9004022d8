"""The usage is asked for where a client has not, and taken out of its stream again."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apis.unasked_usage import UnaskedUsage, asking

USAGE = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
BEFORE = (
    b": hello\n\n"
    b'data: {"choices":[{"delta":{"content":"\\"usage\\":{}"}}],"usage":null}\r\n\r\n'
    b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":5}}\n\n'
    b'data: {"choices":[],"prompt_filter_results":[],"usage":null}\n\n'
    b'data: {"choices":[],"usage":\n\n'
)
AFTER = b"data: [DONE]\n\n"
STREAM = BEFORE + USAGE + AFTER


@given(st.lists(st.integers(0, len(STREAM))))
def test_the_event_of_the_usage_goes_and_every_other_byte_stays(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    usage = UnaskedUsage()
    pieces = [usage.piece(STREAM[start:end]) for start, end in itertools.pairwise(edges)]
    assert b"".join([*pieces, usage.piece(b"", last=True)]) == BEFORE + AFTER


def test_lines_may_end_in_either_way() -> None:
    stream = STREAM.replace(b"\r", b"").replace(b"\n", b"\r\n")
    kept = (BEFORE + AFTER).replace(b"\r", b"").replace(b"\n", b"\r\n")
    assert UnaskedUsage().piece(stream, last=True) == kept


def test_a_stream_that_ends_in_it_has_nothing_left() -> None:
    usage = UnaskedUsage()
    assert usage.piece(USAGE.strip()) == b""
    assert usage.piece(b"", last=True) == b""


@given(st.binary())
def test_what_is_no_stream_passes(data: bytes) -> None:
    usage = UnaskedUsage()
    assert usage.piece(data) + usage.piece(b"", last=True) == data


def test_a_long_line_is_not_held_back() -> None:
    line = b"data: " + b"x" * 70_000
    assert UnaskedUsage().piece(line) == line


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (None, {"include_usage": True}),
        ({"include_usage": False, "x": 1}, {"include_usage": True, "x": 1}),
        ({"include_usage": True}, None),
        ("all", None),
    ],
)
def test_it_is_asked_for_where_the_client_has_not(
    given: object, asked: dict[str, object] | None
) -> None:
    assert asking(given) == asked
