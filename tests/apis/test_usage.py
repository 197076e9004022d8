import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apis.usage import Usage, read_seconds, read_usage

OPENAI = {
    "prompt_tokens": 10,
    "completion_tokens": 7,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4},
}

OLLAMA = b'{"done": true, "context": [1], "prompt_eval_count": 26, "eval_count": 298}\n'


def event(**members: object) -> bytes:
    return b"data: " + json.dumps(members).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("tail", "usage"),
    [
        (json.dumps({"choices": [], "usage": OPENAI}).encode(), Usage(10, 4, 7)),
        (b'{"usage" : {"prompt_tokens": 3, "completion_tokens": 1}}', Usage(3, None, 1)),
        (event(choices=[], usage=OPENAI) + b"data: [DONE]\n\n", Usage(10, 4, 7)),
        (event(usage=OPENAI) + event(usage=None), Usage(10, 4, 7)),
        (b'oken"}}]}\n\n' + event(usage=OPENAI), Usage(10, 4, 7)),
        (event(timings={"prompt_n": 6, "cache_n": 94, "predicted_n": 5}), Usage(100, 94, 5)),
        (event(timings={"prompt_n": 6, "predicted_n": 5}), Usage(6, None, 5)),
        (event(usage={"input_tokens": 8, "output_tokens": 2}), Usage(8, None, 2)),
        (event(usage={"input_tokens": 8, "cache_read_input_tokens": 5}), Usage(13, 5, 0)),
        (b'{"message": {}, "done": false}\n' + OLLAMA, Usage(26, None, 298)),
        (b'{"embeddings": [[0.1]], "prompt_eval_count": 8}', Usage(8, None, 0)),
        (json.dumps({"response": 'an "eval_count": 5, "prompt_eval_count": 9'}).encode(), None),
        (b'{"input_tokens": 12}', None),
        (event(choices=[{"delta": {"content": 'the "usage": {"prompt_tokens": 1}'}}]), None),
        (b'{"usage": {"prompt_tokens": 3, "compl', None),
        (b'{"usage": {"prompt_tokens": "3"}}', None),
        (b'{"usage": {"prompt_tokens": -3}}', None),
        (b"\x1f\x8b\x08 compressed", None),
        (b"", None),
    ],
)
def test_the_usage_is_read_off_the_end(tail: bytes, usage: Usage | None) -> None:
    assert read_usage(tail) == usage


def test_a_stream_that_tells_of_its_prompt_at_the_beginning_is_read_from_both_ends() -> None:
    prompt = {"input_tokens": 28, "cache_read_input_tokens": 630, "output_tokens": 0}
    opening = event(type="message_start", message={"usage": prompt})

    assert read_usage(event(usage={"output_tokens": 4}), opening) == Usage(658, 630, 4)


@given(st.binary() | st.text().map(lambda text: b'{"usage": ' + text.encode(errors="replace")))
def test_no_answer_is_a_fault(tail: bytes) -> None:
    read_usage(tail)


@given(st.text(), st.integers(0, 10**9), st.integers(0, 10**9))
def test_what_a_model_says_is_never_taken_for_its_usage(said: str, prompt: int, made: int) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": made}
    answer = {"usage": usage, "choices": [{"message": {"content": said}}]}

    assert read_usage(json.dumps(answer).encode()) == Usage(prompt, None, made)


def test_braces_in_texts_and_objects_within_do_not_end_it() -> None:
    tail = (
        b'{"usage": {"note": "a } b {{", "prompt_tokens": 3, "prompt_tokens_details": '
        b'{"cached_tokens": 1}, "completion_tokens": 2}, "rest": "}"}'
    )

    assert read_usage(tail) == Usage(3, 1, 2)


def test_what_is_cut_off_within_it_is_none() -> None:
    assert read_usage(b'{"usage": {"prompt_tokens": 3, "details": {"x": 1}') is None


@pytest.mark.parametrize(
    ("tail", "seconds"),
    [
        (b'{"usage": {"prompt_tokens": 3}, "timings": {"prompt_ms": 1250.5}}', 1.2505),
        (b'{"timings": {"prompt_ms": 0}}', None),
        (b'{"timings": {"prompt_ms": "long"}}', None),
        (b'{"done": true, "prompt_eval_duration": 2500000000}', 2.5),
        (b'{"usage": {"prompt_tokens": 3}}', None),
        (b'{"message": "\\"timings\\": {\\"prompt_ms\\": 9}"}', None),
    ],
)
def test_how_long_a_server_has_read_is_read_off_the_end(tail: bytes, seconds: float | None) -> None:
    assert read_seconds(tail) == seconds
