import pytest

from app.apis.rewrites import FINAL_CHANNEL_GRAMMAR, Rewrites


def changes(
    model: str,
    served: str | None = None,
    kwargs: object = None,
    system: str = "",
    *,
    has_grammar: bool = False,
    rewrites: Rewrites | None = None,
) -> dict[str, object]:
    rewrites = rewrites or Rewrites()
    served = served or rewrites.names(model)[-1]
    return dict(rewrites.changes(model, served, kwargs, system, has_grammar=has_grammar))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("gpt-oss:20b", ("gpt-oss:20b",)),
        ("gpt-oss:20b-high", ("gpt-oss:20b-high", "gpt-oss:20b")),
        ("gpt-oss:20b-low-edit", ("gpt-oss:20b-low-edit", "gpt-oss:20b-low", "gpt-oss:20b")),
        ("gpt-oss:20b-apply", ("gpt-oss:20b-apply", "gpt-oss:20b")),
        ("llama-high", ("llama-high",)),
        ("qwen-image-edit", ("qwen-image-edit",)),
        ("gpt-oss-edit", ("gpt-oss-edit", "gpt-oss")),
        ("-edit", ("-edit",)),
        ("", ("",)),
    ],
)
def test_a_suffix_is_part_of_the_name_only_where_a_server_lists_it(
    model: str, names: tuple[str, ...]
) -> None:
    assert Rewrites().names(model) == names


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
@pytest.mark.parametrize("listed", [True, False])
def test_the_effort_suffix_becomes_an_argument_of_the_template_either_way(
    effort: str, listed: bool
) -> None:
    model = f"gpt-oss:20b-{effort}"

    assert changes(model, model if listed else "gpt-oss:20b") == {
        "chat_template_kwargs": {"reasoning_effort": effort},
        "reasoning_effort": effort,
    }


def test_other_arguments_of_the_template_are_kept() -> None:
    assert changes("gpt-oss-high", kwargs={"a": 1, "reasoning_effort": "low"}) == {
        "chat_template_kwargs": {"a": 1, "reasoning_effort": "high"},
        "reasoning_effort": "high",
    }


@pytest.mark.parametrize("suffix", ["-edit", "-apply"])
def test_an_editors_suffix_asks_for_plain_reasoning(suffix: str) -> None:
    assert changes(f"gpt-oss{suffix}") == {"reasoning_format": "auto"}


def test_an_editors_suffix_that_a_server_lists_is_a_name() -> None:
    assert changes("gpt-oss-edit", "gpt-oss-edit") == {}
    assert changes("gpt-oss-edit", "gpt-oss-edit-2") == {}


@pytest.mark.parametrize("greeting", ["You are Cline, a…", "You are Roo, …"])
def test_agents_on_gpt_oss_get_the_grammar_of_the_final_channel(greeting: str) -> None:
    assert changes("gpt-oss:20b", system=greeting) == {
        "reasoning_format": "auto",
        "grammar": FINAL_CHANNEL_GRAMMAR,
    }
    assert changes("qwen", system=greeting) == {}
    assert changes("gpt-oss:20b", system=f"Hi. {greeting}") == {}


def test_a_grammar_of_the_clients_own_is_left_alone() -> None:
    assert changes("gpt-oss", system="You are Roo", has_grammar=True) == {
        "reasoning_format": "auto"
    }


def test_each_rewrite_can_be_switched_off() -> None:
    off = Rewrites(reasoning=False, edit_suffix=False, grammar=False)

    assert off.names("gpt-oss-high-edit") == ("gpt-oss-high-edit",)
    assert changes("gpt-oss-high-edit", system="You are Cline", rewrites=off) == {}
