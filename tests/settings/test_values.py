import re

import pytest

from app.settings import Settings
from app.settings.redos.pattern import weakness

PATTERN = re.compile(Settings().username_pattern)


def name_in(text: str) -> str | None:
    match = PATTERN.search(text)
    return match[1] if match else None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ユーザー名は「太郎」です", "太郎"),
        ("ユーザーの名前は「太郎」", "太郎"),
        ("ユーザーの名前は『山田 花子』です。", "山田 花子"),
        ("ユーザー: 太郎", "太郎"),
        ("ユーザ:太郎さん", "太郎"),
        ("ユーザー名は太郎です。", "太郎"),
        ("私の名前は“太郎”です", "太郎"),
        ("利用者の氏名:佐藤", "佐藤"),
        ('The user\'s name is "Alice".', "Alice"),
        ("The user’s name is “Alice O’Neill”.", "Alice O’Neill"),
        ("User name: 'Bob'", "Bob"),
        ("User name: 'Bob O'Neill'.", "Bob O'Neill"),
        ("My name is Alice", "Alice"),
        ("You are helpful.\nMy name is alice and I like tea.", "alice"),
        ("The user name is Alice Smith. Be brief.", "Alice Smith"),
        ("- **User name:** Alice", "Alice"),
        ("username: alice@example.com.", "alice@example.com"),
        ("USER_NAME=bob", "bob"),
        ('User: "Alice"', "Alice"),
    ],
)
def test_a_user_s_name_is_found_in_the_forms_that_people_write(text: str, name: str) -> None:
    assert name_in(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "You are a helpful assistant.",
        "Your name is Max.",
        "あなたの名前は「マックス」です",
        "User: what is the weather?\nAssistant: sunny",
        "The user's name is {{USER_NAME}}",
        "ユーザー名は8文字以上で入力してください",
        "ユーザー名: 「",
        'user name: ""',
    ],
)
def test_what_is_no_user_s_name_is_not_found(text: str) -> None:
    assert name_in(text) is None


def test_the_pattern_is_safe_to_search_with() -> None:
    assert weakness(PATTERN.pattern, search=True) is None


def test_the_pattern_has_one_group() -> None:
    assert PATTERN.groups == 1


def test_the_pattern_can_stand_in_single_quotes() -> None:
    assert "'" not in PATTERN.pattern
