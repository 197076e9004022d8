"""A response carries the name that its client has asked for, and no other byte changes."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apis.asked_name import AskedName

STREAM = (
    b": hello\n\n"
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"1","model":"qwen"}}\n\n'
    b'data: {"choices":[{"delta":{"content":"\\"model\\":\\"qwen\\""}}],"model":"qwen"}\n\n'
    b'data: {"type":"response.created","response":{"model": "qwen","tools":[{"model":"own"}]}}\r\n'
    b"\r\ndata: [DONE]\n\n"
)
ASKED = STREAM.replace(b'model":"qwen"}', b'model":"claude"}').replace(
    b'"model": "qwen"', b'"model": "claude"'
)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ('{"id": "x", "model" : "qwen", "n": 1}', '{"id": "x", "model" : "claude", "n": 1}'),
        ('{"message":{"model":"qwen"}}', '{"message":{"model":"claude"}}'),
        ('{"choices":[{"model":"own"}]}', '{"choices":[{"model":"own"}]}'),
        ('{"model":null,"response":"text"}', '{"model":null,"response":"text"}'),
        ('["model", "qwen"]', '["model", "qwen"]'),
        ('{"model":"qwen"', '{"model":"qwen"'),
        ('{"model":"qwen",', '{"model":"qwen",'),
        ('{"model":', '{"model":'),
    ],
)
def test_only_the_name_of_the_response_changes(body: str, asked: str) -> None:
    assert AskedName("claude").whole(body.encode()).decode() == asked


def test_a_name_is_written_as_json() -> None:
    assert json.loads(AskedName('a"ü').whole(b'{"model":"m"}'))["model"] == 'a"ü'


def test_what_is_no_text_stays_as_it_is() -> None:
    body = b'{"model":"qwen\xff"}'
    assert AskedName("claude").whole(body) == body


@given(st.lists(st.integers(0, len(STREAM))))
def test_a_stream_may_come_in_any_pieces(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    asked_name = AskedName("claude")
    pieces = [asked_name.piece(STREAM[start:end]) for start, end in itertools.pairwise(edges)]
    assert b"".join([*pieces, asked_name.piece(b"", last=True)]) == ASKED


def test_a_long_line_is_not_held_back() -> None:
    line = b"data: " + b"x" * 70_000
    assert AskedName("claude").piece(line) == line


def test_whole_lines_are_not_held_back() -> None:
    assert AskedName("claude").piece(b'{"model":"qwen"}\n{"mo') == b'{"model":"claude"}\n'
