"""A text that would take long to parse is known before it is parsed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apis.structure import HEAVY, LONG, MOST, SLICE, _without_texts, is_too_much

json_values = st.recursive(
    st.none() | st.integers() | st.text('",:[]{}\\ué', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def punctuation(value: object) -> str:
    """Write the punctuation of a value, without its texts and what ends an array or object."""
    if isinstance(value, dict):
        return "{" + ",".join(":" + punctuation(x) for x in value.values())
    if isinstance(value, list):
        return "[" + ",".join(map(punctuation, value))
    return ""


@given(json_values)
def test_punctuation_within_texts_does_not_count(value: object) -> None:
    for ascii_only in (True, False):
        raw = json.dumps(value, ensure_ascii=ascii_only).encode()
        assert _without_texts(raw).decode() == punctuation(value)


@pytest.mark.parametrize(
    "bomb",
    [
        b"[],",
        b'{"role":"user","content":"a"},',
        b'"k":1,',
        b"1,",
        b'[{"":[{"":',
        b'"\\\\",{"\\"":"[["},',
    ],
)
def test_many_small_values_are_too_much(bomb: bytes) -> None:
    assert is_too_much(b'{"model":"m","messages":[' + bomb * MOST + b"1]}")


def test_a_million_numbers_are_not() -> None:
    assert not is_too_much(b"[" + b"1," * (MOST - HEAVY) + b"1]")


def test_long_texts_with_any_punctuation_are_not() -> None:
    code = json.dumps({"content": '{"a": [1, 2], "b": "\\\\"}, ' * (2 * MOST // 8)})
    assert not is_too_much(code.encode())


@pytest.mark.parametrize("size", [0, 1, LONG, LONG + 1, SLICE, SLICE + 1])
def test_text_alone_never_is(size: int) -> None:
    assert not is_too_much(b'"' * (size % 2) + b"a" * size)
