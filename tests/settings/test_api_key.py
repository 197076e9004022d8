from pathlib import Path

import pytest

from app.settings import SettingsError, validated

HASH = "sha256:" + "0" * 64


def test_a_key_may_be_written_alone_or_with_what_it_allows() -> None:
    settings = validated(
        {"api_keys": f'{{"alice": "{HASH}", "bob": {{"key": "{HASH[:-1]}1", "models": "a,b"}}}}'}
    )

    assert settings.api_keys["alice"].models == ()
    assert settings.api_keys["bob"].models == ("a", "b")


@pytest.mark.parametrize(
    "key", ["short", "with spaces in a long text", "sha256:123", "schlüssel-0123456789"]
)
def test_a_key_that_is_none_is_told_and_not_repeated(key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validated({"api_keys": {"alice": key}})

    assert "alice" in str(caught.value)
    assert key not in str(caught.value)


def test_a_folder_has_a_file_for_each_name(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    (folder / "..data").mkdir(parents=True)
    (folder / ".hidden").write_text("nothing")
    (folder / "alice").write_text(HASH + "\n")
    (folder / "bob").write_text(f'{{"key": "{HASH[:-1]}1", "models": ["a"]}}')

    keys = validated({"api_keys_file": str(folder)}).all_keys()

    assert sorted(keys) == ["alice", "bob"]
    assert keys["bob"].models == ("a",)


def test_two_names_may_not_have_one_key() -> None:
    with pytest.raises(SettingsError, match="the same key"):
        validated({"api_keys": {"alice": HASH, "bob": HASH}})


@pytest.mark.parametrize("name", ["", "(admin)", "with space", "a" * 65])
def test_a_name_is_short_and_plain(name: str) -> None:
    with pytest.raises(SettingsError):
        validated({"api_keys": {name: HASH}})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "no valid JSON|not valid JSON"),
        ("[]", "dictionary|JSON object"),
        ('{"alice": "a-secret-that-is-too-sh ort"}', "alice"),
        (f'{{"bob": "{HASH}"}}', "the same key"),
        (f'{{"alice": "{HASH[:-1]}1"}}', "alice"),
    ],
)
def test_a_file_with_a_mistake_is_told_without_any_key(
    tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)

    with pytest.raises(SettingsError, match=told) as caught:
        validated({"api_keys": {"alice": HASH}, "api_keys_file": str(file)})

    assert "BALANCER_API_KEYS_FILE" in str(caught.value)
    assert "a-secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        validated({"api_keys_file": str(tmp_path / "none.json")})


def test_with_an_empty_file_nobody_gets_in(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("{}")

    assert validated({"api_keys_file": str(file)}).key_ring().required
