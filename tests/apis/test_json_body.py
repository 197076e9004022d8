import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apis.json_body import BadRequest, Body

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), JSON)


@given(OBJECTS, st.sampled_from([None, 1, 4]), st.booleans())
def test_a_body_says_what_the_json_says(
    members: dict[str, object], indent: int, ascii_: bool
) -> None:
    body = Body(json.dumps(members, indent=indent, ensure_ascii=ascii_).encode())

    assert {name: body.get(name) for name in members} == members


@given(OBJECTS, st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON))
def test_an_edit_sets_what_it_names_and_keeps_the_rest(
    members: dict[str, object], changes: dict[str, object]
) -> None:
    body = Body(json.dumps(members).encode())

    assert json.loads(body.edited(changes)) == {**members, **changes}


def test_an_edit_leaves_every_other_byte_as_it_was() -> None:
    raw = b' {"a" : 1.50 ,\n "model":  "x" , "z":[1 ,2], "\\u0061b": "\xc3\xa9\\u00e9" } \n'

    edited = Body(raw).edited({"model": "y-2"})

    assert edited == raw.replace(b'"x"', b'"y-2"')


def test_a_new_member_is_added_at_the_end() -> None:
    assert Body(b'{"a":1 }').edited({"b": [2]}) == b'{"a":1 ,"b":[2]}'
    assert Body(b"{ }").edited({"b": "c"}) == b'{ "b":"c"}'


def test_half_a_surrogate_pair_can_be_set() -> None:
    edited = Body(rb'{"a":{"b":"\ud800"}}').edited({"a": {"b": "\ud800", "c": 1}})

    assert edited == rb'{"a":{"b": "\ud800", "c": 1}}'


def test_what_is_not_kept_is_still_there_and_is_set_in_its_place() -> None:
    body = Body(b'{"model": "m", "x": "long", "n": 1}')
    body.keep("model")

    assert (body.get("model"), body.get("x"), "x" in body) == ("m", None, True)
    assert body.edited({"x": "y"}) == b'{"model": "m", "x": "y", "n": 1}'


def test_setting_what_is_there_already_changes_no_byte() -> None:
    raw = b'{"model" : "\\u0078"}'

    assert Body(raw).edited({"model": "x"}) == raw


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not JSON"),
        (b"not json", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"{", "not JSON"),
        (b'{"a"', "not JSON"),
        (b'{"a":', "not JSON"),
        (b'{"a":1', "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b'{"a":1} x', "more follows"),
        (b'{"a":1}{"a":1}', "more follows"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":-Infinity}', "Infinity is not JSON"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":"\n"}', "control character"),
        (b'{"a\n":1}', "control character"),
        (b'{"model":"a","model":"b"}', "names model twice"),
        (b'{"model":"a","m\\u006fdel":"b"}', "names model twice"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":' + b"9" * 5_000 + b"}", "digits"),
    ],
)
def test_what_is_no_json_object_is_refused_with_a_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        Body(raw)


def nested(levels: int) -> bytes:
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_a_body_that_nests_too_deeply_is_refused() -> None:
    with pytest.raises(BadRequest, match="too deeply"):
        Body(nested(200_000))


@pytest.mark.parametrize("levels", [200, 900, 1_000, 1_023])
def test_a_deep_body_is_edited_or_refused(levels: int) -> None:
    body = Body(nested(levels))
    with contextlib.suppress(BadRequest):
        assert body.edited({"a": 1}) == b'{"a":1}'


def test_a_nested_model_is_no_second_one() -> None:
    raw = b'{"tools":[{"model":"x"}],"model":"a","text":"\\"model\\" \\u0041"}'

    assert Body(raw).edited({"model": "b"}) == raw.replace(b'"a"', b'"b"')


def test_what_is_to_be_set_may_not_stand_there_twice() -> None:
    with pytest.raises(BadRequest, match="names grammar twice"):
        Body(b'{"grammar":1,"grammar":2}').edited({"grammar": 3})
