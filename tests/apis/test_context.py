import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apis.context import Overflow, overflow


def error(**members: object) -> bytes:
    return json.dumps({"error": members}).encode()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            error(type="exceed_context_size_error", n_prompt_tokens=48, n_ctx=40, message="no"),
            Overflow(48, 40),
        ),
        (
            error(
                message="This model's maximum context length is 40 tokens. However, you requested "
                "50 tokens (48 in the messages, 2 in the completion)."
            ),
            Overflow(50, 40),
        ),
        (
            error(
                message="This model's maximum context length is 40 tokens. However, your request "
                "has 48 input tokens."
            ),
            Overflow(48, 40),
        ),
        (
            error(
                message="The decoder prompt (length 48) is longer than the maximum model length "
                "of 40. Make sure that…"
            ),
            Overflow(48, 40),
        ),
        (
            json.dumps(
                {
                    "object": "error",
                    "message": "This model's maximum context length is 40 tokens.",
                    "code": 400,
                }
            ).encode(),
            Overflow(0, 40),
        ),
        (b'{"error":"the input length exceeds the context length"}', Overflow(0, 0)),
        (
            b'{"error":"the model is loaded with context length of only 40 tokens, which is not"}',
            Overflow(0, 40),
        ),
    ],
)
def test_a_server_that_says_that_a_prompt_is_too_long_is_understood(
    body: bytes, told: Overflow
) -> None:
    assert overflow(body) == told


@pytest.mark.parametrize(
    "body",
    [
        error(message="context_window must be a number"),
        error(message="no such model"),
        error(message=["context"]),
        b'{"error":',
        b'["context"]',
        b'"context"',
    ],
)
def test_any_other_error_is_none_of_these(body: bytes) -> None:
    assert overflow(body) is None


@given(st.binary())
def test_any_body_can_be_read(body: bytes) -> None:
    overflow(body + b"context")
