from app.apis.aliases import Aliases


def test_the_first_pattern_that_matches_a_whole_name_decides() -> None:
    aliases = Aliases({"claude-haiku.*": "qwen3:4b", "claude-.*": "qwen3-coder", "gpt": "small"})

    assert aliases.model("claude-haiku-4-5") == "qwen3:4b"
    assert aliases.model("claude-opus-4-8") == "qwen3-coder"
    assert aliases.model("gpt") == "small"
    assert aliases.model("gpt-oss:20b") == "gpt-oss:20b"
    assert aliases.model("my-claude-opus") == "my-claude-opus"


def test_what_an_alias_leads_to_is_no_alias() -> None:
    aliases = Aliases({"a": "b", "b": "c"})

    assert aliases.model("a") == "b"


def test_ollamas_tag_makes_no_difference() -> None:
    aliases = Aliases({"gpt-4o": "qwen3:8b", "tiny:latest": "smollm"})

    assert aliases.model("gpt-4o:latest") == "qwen3:8b"
    assert aliases.model("tiny") == "smollm"


def test_names_are_told_from_patterns() -> None:
    aliases = Aliases({"gpt-4.1": "qwen3:8b", "claude-.*": "qwen3-coder", "o[13]": "qwen3:8b"})

    assert aliases.names == {"gpt-4.1": "qwen3:8b"}


def test_names_that_clients_make_up_fill_no_memory() -> None:
    aliases = Aliases({"claude-.*": "qwen3-coder"})

    assert aliases.model("claude-" + "x" * 1_000) == "claude-" + "x" * 1_000
    assert all(aliases.model(f"claude-{n}") == "qwen3-coder" for n in range(3_000))
