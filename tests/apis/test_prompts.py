import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apis.prompts import MOST_MESSAGES, brief, chat_prompt, plain_prompt, response_prompt

LONG = "All work and no play. " * 20
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def test_a_text_and_its_parts_are_the_same_prompt() -> None:
    whole = chat_prompt({"messages": [user(LONG)]}.get)
    parts = chat_prompt(
        {"messages": [user([{"type": "text", "text": x} for x in (LONG[:9], LONG[9:])])]}.get
    )

    assert whole is not None
    assert parts is not None
    assert whole.whole == parts.whole


def test_a_conversation_of_very_many_messages_is_not_read() -> None:
    assert chat_prompt({"messages": [user("Hi")] * MOST_MESSAGES}.get) is not None
    assert chat_prompt({"messages": [user("Hi")] * (MOST_MESSAGES + 1)}.get) is None


def test_a_message_of_very_many_parts_has_no_prompt() -> None:
    part = {"type": "text", "text": "Hi"}
    parts = [part] * MOST_MESSAGES
    assert chat_prompt({"messages": [{"role": "user", "content": parts}]}.get) is not None
    assert chat_prompt({"messages": [{"role": "user", "content": [*parts, part]}]}.get) is None


def test_tools_stand_before_the_messages() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    with_tools = chat_prompt({"messages": [user("Hi")], "tools": tools}.get)
    without = chat_prompt({"messages": [user("Hi")]}.get)

    assert with_tools is not None
    assert without is not None
    assert with_tools.shared(without) == without.shared(with_tools) == 0


def test_an_image_and_a_tool_call_are_part_of_the_prompt() -> None:
    image = [{"type": "image_url", "image_url": {"url": "data:,1"}}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    prompts = [
        chat_prompt({"messages": [user(image), call]}.get),
        chat_prompt({"messages": [user([]), call]}.get),
        chat_prompt({"messages": [user(image), {**call, "tool_calls": []}]}.get),
    ]

    assert len({prompt.whole for prompt in prompts if prompt}) == 3


def test_a_large_image_is_marked_once_and_told_from_another() -> None:
    images = [
        chat_prompt(
            {"messages": [user([{"type": "image_url", "image_url": {"url": x * 100_000}}])]}.get
        )
        for x in "aab"
    ]

    assert all(prompt is not None and len(prompt.prefixes) == 1 for prompt in images)
    assert [prompt.whole == images[0].whole for prompt in images if prompt and images[0]] == [
        True,
        True,
        False,
    ]


def test_ollamas_images_are_part_of_the_prompt() -> None:
    chats = [chat_prompt({"messages": [{**user("Hi"), "images": [x]}]}.get) for x in "aab"]
    plain = [plain_prompt({"prompt": "Hi", "images": [x]}.get) for x in "aab"]

    for first, same, other in (chats, plain):
        assert first is not None
        assert same is not None
        assert other is not None
        assert first.whole == same.whole != other.whole


def test_what_a_tool_gave_is_read_as_text_in_either_api() -> None:
    given = [[{"type": "text", "text": LONG}], LONG]
    for content in given:
        part = {"type": "tool_result", "tool_use_id": "1", "content": content}
        prompt = chat_prompt({"messages": [user([part])]}.get)
        assert prompt is not None
        assert prompt.size > len(LONG)

    items = [{"type": "function_call_output", "call_id": "1", "output": x + LONG} for x in "ab"]
    prompts = [response_prompt({"input": [user("Hi"), item]}.get) for item in items]
    assert all(prompt is not None and prompt.size > len(LONG) for prompt in prompts)
    assert len({prompt.whole for prompt in prompts if prompt}) == 2


def test_without_messages_there_is_no_prompt() -> None:
    assert chat_prompt({"prompt": "Hello"}.get) is None
    assert chat_prompt({"messages": "Hello"}.get) is None


@given(json_values, json_values)
def test_any_json_can_be_read(messages: object, tools: object) -> None:
    chat_prompt({"messages": messages, "tools": tools}.get)


@given(st.lists(st.fixed_dictionaries({}, optional={"role": json_values, "content": json_values})))
def test_any_messages_can_be_read(messages: list[dict[str, object]]) -> None:
    chat_prompt({"messages": messages}.get)


@pytest.mark.parametrize(
    ("body", "few"),
    [
        ({"max_tokens": 50}, True),
        ({"max_completion_tokens": 512}, True),
        ({"max_output_tokens": 513}, False),
        ({"options": {"num_predict": 20}}, True),
        ({"options": {"num_predict": -1}}, False),
        ({"max_tokens": "50"}, False),
        ({}, False),
    ],
)
def test_a_request_is_brief_that_asks_for_few_tokens(body: dict[str, object], few: bool) -> None:
    assert brief(body.get) is few


@pytest.mark.parametrize(
    "reasoned",
    [
        {"role": "assistant", "content": LONG, "reasoning_content": "Let me see."},
        {"role": "assistant", "content": LONG, "reasoning": "Let me see."},
        {"role": "assistant", "content": LONG, "thinking": "Let me see."},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Let me see.", "signature": "x"},
                {"type": "text", "text": LONG},
            ],
        },
    ],
)
def test_reasoning_is_noticed_and_makes_no_other_prompt(reasoned: dict[str, object]) -> None:
    plain = {"role": "assistant", "content": LONG}
    with_it = chat_prompt({"messages": [user("Hi"), reasoned, user("On")]}.get)
    without = chat_prompt({"messages": [user("Hi"), plain, user("On")]}.get)

    assert with_it is not None
    assert without is not None
    assert with_it.whole == without.whole
    assert (with_it.reasoned, without.reasoned) == ((1,), ())


def test_an_item_of_reasoning_is_noticed_at_what_came_of_it() -> None:
    reasoning = {"type": "reasoning", "summary": [], "encrypted_content": "x"}
    call = {"type": "function_call", "name": "look", "arguments": "{}"}
    with_it = response_prompt({"input": [user("Hi"), reasoning, call]}.get)
    without = response_prompt({"input": [user("Hi"), call]}.get)

    assert with_it is not None
    assert without is not None
    assert with_it.whole == without.whole
    assert with_it.reasoned == (1,)
