import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings.redos.pattern import weakness

SLOW = [
    "(a+)+",
    "(a*)*",
    "(a|a)*",
    "(a|aa)*",
    "(a|ab|b)*c",
    "(.*a){20}",
    "(.*ab)+",
    "(.+)+x",
    ".*.*.*",
    r"\w*\d*[a-z0-9]*x",
    r"(\d+-?)+",
    r"(\w+\s?)*x",
    "model-(x+x+)+y",
    "(abc?c?)*",
    "(?:x[ab]|xbc?)*y",
    "(?:a?b?)*c",
    "(a?){20}a{20}",
    "(x{1,30}){1,30}",
    "(?:a{0,30}){30}",
    ".*ab.*ab.*ab.*ab.*ab.*ab",
    ".*a.*b.*c.*d.*e.*f",
    "(?=(a+)+b)x",
    "(?!(a+)+b)x",
    "x(?<!y)(?:(?i:A)+)+",
    "(?i:a+A+)+b",
    "(?s:.+)+x",
    "([あ-ん]+[い-う]?)+",
    r"(?:\u3042+)+",
    "([^-]+)+",
    "(a+?)+?",
    "(?>a+)+",
]

ORDINARY = [
    "",
    ".*",
    "gpt-oss.*",
    "gpt-oss:20b-64k.*",
    "(qwen|llama)-.*",
    r"model(-\d+)?",
    ".*llama.*",
    ".*qwen.*coder.*",
    ".*qwen.*coder.*q4.*",
    "[a-z]+(-[a-z]+)*",
    "(a|b)*c",
    "(-?\\d)*",
    "(?i)qwen.*",
    "(?i:QWEN|llama).*",
    "(?!embed).*",
    "(?:(?!x).)*",
    r"(?<=-)\d+|^$",
    r"[^/]+/[^/]+(:\w+)?",
    r"(?:\d{1,3}\.){3}\d{1,3}",
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "gpt-oss:(20b|120b)(-\\d+k)?(-low|-medium|-high)?",
    "a{1000}",
    "|".join(f"model-{n}" for n in range(100)),
]


@pytest.mark.parametrize("pattern", SLOW)
def test_a_pattern_that_can_take_for_ever_has_a_weakness(pattern: str) -> None:
    re.compile(pattern)

    assert weakness(pattern)


@pytest.mark.parametrize("pattern", ORDINARY)
def test_an_ordinary_pattern_has_none(pattern: str) -> None:
    assert weakness(pattern) is None


@pytest.mark.parametrize("pattern", [r"(a+)\1", "(?P<x>a)(?P=x)", "(a)?(?(1)b|c)"])
def test_a_reference_to_a_group_is_a_weakness(pattern: str) -> None:
    assert "refers back to a group" in (weakness(pattern) or "")


def test_a_pattern_that_counts_into_the_thousands_is_too_large() -> None:
    assert "too large" in (weakness("((a{20}){20}){20}") or "")


def test_the_reason_shows_a_text_and_what_to_avoid() -> None:
    reason = weakness("model-(a+)+") or ""

    assert 'a text like "model-aaaaaa…"' in reason
    assert "(a+)+" in reason


@pytest.mark.parametrize("pattern", [r".*name (.*)", r"(\w+)(\w+) is here"])
def test_a_search_is_held_to_more_than_a_match(pattern: str) -> None:
    assert weakness(pattern) is None
    assert weakness(pattern, search=True)


@pytest.mark.parametrize("pattern", [r"name is (\w+)", 'user is "([^"]+)"', r"(\w+) is my name"])
def test_an_ordinary_search_has_no_weakness(pattern: str) -> None:
    assert weakness(pattern, search=True) is None


def test_what_is_no_regular_expression_is_told_as_python_does() -> None:
    with pytest.raises(re.error, match="nothing to repeat"):
        weakness("*llama*")


@given(st.text(max_size=30))
def test_a_literal_text_is_never_weak(text: str) -> None:
    assert weakness(re.escape(text)) is None


some = st.sampled_from(["a", "[ab]", r"\d", ".", "[^x]", "あ", "(?i:q)"])


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return (
        st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})")
        | st.tuples(inner, st.sampled_from("*+?")).map(lambda two: f"(?:{two[0]}){two[1]}")
    )


patterns = st.recursive(some, _larger, max_leaves=5)


@given(patterns, st.sampled_from(["+", "*", "{2,}", "{25}"]))
def test_a_repeat_inside_a_repeat_is_always_weak(pattern: str, again: str) -> None:
    assert weakness(f"x-(?:(?:{pattern})+){again}y")


@given(patterns, st.text(alphabet="mno-", min_size=1, max_size=5))
def test_what_is_weak_stays_weak_behind_a_literal_text(pattern: str, text: str) -> None:
    if weakness(pattern):
        assert weakness(re.escape(text) + f"(?:{pattern})")
