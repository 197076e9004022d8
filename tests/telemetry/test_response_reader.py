import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apis.usage import Usage
from app.telemetry.response_reader import TAIL_PIECES, ResponseReader


def delta(**members: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": members}]}).encode() + b"\n\n"


def seen(*pieces: bytes, streams: bool = True) -> ResponseReader:
    answer = ResponseReader(streams=streams)
    for piece in pieces:
        answer.passes(piece)
    return answer


@pytest.mark.parametrize(
    "piece",
    [
        delta(role="assistant"),
        delta(role="assistant", content=""),
        delta(content=None, reasoning_content=""),
        delta(tool_calls=[]),
        b": a comment\n\n",
        b"data: [DONE]\n\n",
        b'data: {"choices": "odd", "delta": ""}\n\n',
        b"data: [1]\n\ndata: 1\n\n",
        b'data: {"choices": [{"text": ""}, 5]}\n\n',
        b'data: {"usage": {"prompt_tokens": 1}}\n\n',
    ],
)
def test_an_event_without_anything_generated_is_no_token(piece: bytes) -> None:
    assert seen(piece).first_token is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"message": {"role": "assistant", "content": "Hello"}, "done": false}\n',
        b'{"message": {"role": "assistant", "content": "", "thinking": "Hm"}}\n',
        b'{"response": "Hello", "done": false}\n',
    ],
)
def test_lines_of_json_have_a_first_token_and_pauses_too(line: bytes) -> None:
    answer = ResponseReader(streams=True, lines=True)
    for piece in (b'{"message": {"content": ""}, "response": ""}\n', line, line, line):
        answer.passes(piece)

    assert answer.first_token is not None
    assert answer.gaps is not None
    assert sum(answer.gaps.counts) == 2


@pytest.mark.parametrize(
    "piece",
    [
        delta(content="Hello"),
        delta(role="assistant", content="Hello"),
        delta(content=None, reasoning_content="Hm"),
        delta(reasoning="Hm"),
        delta(tool_calls=[{"index": 0}]),
        b'data: {"choices": [{"text": "Hello"}]}\n\n',
        b'data:{"choices":[{"delta":{"content":"x"}}]}\r\n\r\n',
        b'event: content_block_delta\ndata: {"delta": {"type": "text_delta", "text": "x"}}\n\n',
        b'data: {"type": "response.output_text.delta", "delta": "x"}\n\n',
    ],
)
def test_the_first_text_reasoning_or_tool_call_is_the_first_token(piece: bytes) -> None:
    answer = seen(delta(role="assistant"), piece)

    assert answer.first_token is not None
    assert answer.gaps is not None
    assert sum(answer.gaps.counts) == 0


@given(st.integers(1, 60))
def test_a_token_is_found_wherever_its_event_was_cut(cut: int) -> None:
    event = delta(role="assistant", content="Hello")

    assert seen(event[:cut], event[cut:]).first_token is not None


def test_a_gap_is_counted_for_every_event_after_the_first_token() -> None:
    answer = seen(delta(content="a"), delta(content="b"), b": ping\n\n", delta(content="c"))

    assert answer.gaps is not None
    assert sum(answer.gaps.counts) == 2
    assert answer.longest_gap > 0


def test_a_gap_is_counted_as_well_where_events_have_names() -> None:
    event = b'event: content_block_delta\ndata: {"delta": {"type": "text_delta", "text": "x"}}\n\n'
    answer = seen(event, event, event)

    assert answer.gaps is not None
    assert sum(answer.gaps.counts) == 2


def test_an_answer_that_is_no_stream_has_no_token_times() -> None:
    answer = seen(delta(content="a"), streams=False)

    assert (answer.first_token, answer.gaps) == (None, None)


@given(st.lists(st.binary(max_size=50)))
def test_the_size_is_counted_and_the_last_pieces_are_kept(pieces: list[bytes]) -> None:
    answer = seen(*pieces)

    assert answer.size == sum(map(len, pieces))
    assert answer.tail == pieces[-TAIL_PIECES:]


def test_an_event_without_end_is_not_gathered_without_end() -> None:
    answer = ResponseReader(streams=True)
    for _ in range(100):
        answer.passes(b"x" * 10_000)

    assert len(answer._unread) <= 64 * 1024


def test_the_prompt_s_tokens_of_an_anthropic_stream_are_kept_from_its_beginning() -> None:
    usage = {"input_tokens": 2, "cache_read_input_tokens": 8}
    start = {"type": "message_start", "message": {"usage": usage}}
    text = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}
    end = {"type": "message_delta", "usage": {"output_tokens": 9}}
    pieces = [start, *[text] * (TAIL_PIECES + 1), end]

    answer = seen(*(b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in pieces))

    assert answer.usage() == Usage(10, 8, 9)
    assert answer.usage() == Usage(10, 8, 9)
