"""A long body is read in pieces as it would be read at once."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.apis.json_body import BadRequest, Body
from app.apis.json_text import byte_members
from app.apis.pieces import Pieces, Uncut

MB = 1024 * 1024

texts = st.text(max_size=60) | st.text('ab\\"\n😀é,[]{}:', max_size=90)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(st.text("ab\\\"':", max_size=6), inner, max_size=8)
    ),
    max_leaves=60,
)
bodies = st.dictionaries(st.text('ab,:"\\é', max_size=6), values, max_size=8)
sizes = st.integers(100, 300)


def judge(text: bytes) -> dict[str, object]:
    read = json.loads(text)
    if not isinstance(read, dict):
        raise TypeError
    return read


def in_pieces(raw: bytes, size: int) -> Pieces:
    pieces = Pieces(raw, judge, size)
    while pieces.step():
        pass
    return pieces


@given(bodies, sizes, st.booleans(), st.sampled_from([None, 1]))
def test_pieces_amount_to_the_whole(
    body: dict[str, Any], size: int, ascii_only: bool, indent: int | None
) -> None:
    raw = json.dumps(body, ensure_ascii=ascii_only, indent=indent).encode(errors="surrogatepass")
    assume(b"\xed" not in raw)
    pieces = in_pieces(raw, size)
    assert pieces.values == body
    assert pieces.places == [*byte_members(raw.decode())]


@given(bodies, sizes, st.data())
def test_what_is_no_json_as_a_whole_is_none_in_pieces(
    body: dict[str, Any], size: int, data: st.DataObject
) -> None:
    raw = bytearray(json.dumps(body).encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at : at + data.draw(st.integers(0, 2))] = data.draw(
        st.sampled_from([b"", b",", b'"', b"]", b"}", b"[", b"{", b"\\", b":", b"\x80", b"0"])
    )
    try:
        whole = judge(bytes(raw))
    except (ValueError, TypeError):
        with pytest.raises((ValueError, TypeError)):
            in_pieces(bytes(raw), size)
    else:
        assert in_pieces(bytes(raw), size).values == whole


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":' + b" " * 500 + b"1}",
        b'{"a":' + b"1" * 500 + b"}",
        b'{"' + b"a" * 500 + b'":1}',
    ],
    ids=["space", "number", "name"],
)
def test_what_no_piece_can_end_in_is_refused(raw: bytes) -> None:
    with pytest.raises(Uncut):
        in_pieces(raw, 100)


def test_of_a_text_longer_than_models_read_the_rest_is_told_apart_only() -> None:
    one, same, other = (
        str(in_pieces(b'{"a":"' + text + b'"}', 100).values["a"])
        for text in (b"a" * 3000, b"a" * 3000, b"a" * 2999 + b"b")
    )
    assert one == same != other
    assert one[:700] == "a" * 700


def test_a_long_body_is_edited_where_its_members_stand() -> None:
    text = "word, " * MB
    body = Body(
        json.dumps({"messages": [{"content": text}], "model": "a", "options": {"k": text}}).encode()
    )
    assert body.get("model") == "a"
    assert json.loads(body.edited({"model": "b", "options": 1, "more": 2})) == {
        "messages": [{"content": text}],
        "model": "b",
        "options": 1,
        "more": 2,
    }


@pytest.mark.parametrize(
    ("raw", "wrong"),
    [
        (b'{"model":"a","b":"' + b"x" * MB + b'","model":"b"}', "the body names model twice"),
        (b'{"model":"a","b":"' + b"x" * MB + b'"', "the body is not JSON"),
        (b'{"model":"a","b":"' + b"x" * MB + b'"} 1', "the body is not JSON"),
        (b'{"model":"a","b":"' + b"x" * MB + b'\xff"}', "the body is not UTF-8"),
        (b'["' + b"x" * MB + b'"]', "the body is not a JSON object"),
        (b'"' + b"x" * 9 * MB + b'"', "the body is not a JSON object"),
        (
            b'{"' + b"x" * 9 * MB + b'":1}',
            "the body holds a name, a number or a space of megabytes",
        ),
        (b'{"a":"' + b"x" * MB + b'","b":' + b"[" * 2000, "the body nests too deeply"),
    ],
    ids=["twice", "torn", "more follows", "no UTF-8", "an array", "a text", "a name", "deep"],
)
def test_what_is_wrong_with_a_long_body_is_told(raw: bytes, wrong: str) -> None:
    with pytest.raises(BadRequest, match=f"^{wrong}$"):
        Body(raw)


@pytest.mark.parametrize("before", range(12))
def test_a_character_of_two_surrogates_is_one_though_others_stand_alone(before: int) -> None:
    """Where one stands alone, orjson parses none of the piece, and all ends look alike."""
    raw = b'{"a":"\\ude00' + b"x" * before + b"\\ud83d\\ude00" * 20 + b'"}'
    assert in_pieces(raw, 100).values == json.loads(raw)


def test_a_text_of_lone_surrogates_is_read() -> None:
    raw = b'{"a":"' + b"\\ude00" * 100 + b'"}'
    assert in_pieces(raw, 100).values == json.loads(raw)
