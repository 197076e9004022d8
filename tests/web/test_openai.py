import json
import re

import pytest

from app.routing.choice import Ask
from app.web.body import BadRequest
from app.web.openai import SYSTEM_TEXT_LIMIT, ChatRequest
from app.web.rewrites import Rewrites

PATTERN = re.compile(r"name is (\w+)")


def chat(body: object, address: str = "10.0.0.1") -> ChatRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ChatRequest(raw, address, PATTERN, Rewrites())


def system(content: object, role: str = "system") -> dict[str, object]:
    return {"model": "m", "messages": [{"role": role, "content": content}]}


def test_the_client_is_the_user_of_the_system_message() -> None:
    request = chat(system("The user's name is alice."))

    assert request.username == "alice"
    assert request.ask._replace(prompt=None) == Ask("m", ("m",), "alice", "10.0.0.1")


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m"},
        {"model": "m", "messages": "x"},
        {"model": "m", "messages": [1, {"role": "user", "content": "name is bob"}]},
        system("no name"),
        system(None),
        system(7),
        system("x" * SYSTEM_TEXT_LIMIT + "name is alice"),
    ],
)
def test_without_a_name_the_client_is_the_address(body: object) -> None:
    assert chat(body).ask.client == "10.0.0.1"


def test_the_system_message_may_come_in_parts_or_as_the_developers() -> None:
    parts = [{"type": "text", "text": "name is"}, {"text": 5}, "x", {"text": "name is bob"}]

    assert chat(system(parts)).username == "bob"
    assert chat(system("name is eve", "developer")).username == "eve"


def test_half_a_surrogate_pair_in_a_name_is_made_harmless() -> None:
    request = ChatRequest(
        rb'{"model":"m","messages":[{"role":"system","content":"name is \ud800"}]}',
        "10.0.0.1",
        re.compile("name is (.)"),
        Rewrites(),
    )

    assert request.username == "?"


def test_the_body_names_the_instance_and_changes_in_nothing_else() -> None:
    raw = b'{ "model" : "m", "messages": [ ], "x": 1.0 }'

    assert chat(raw).body_for("m") is not None
    assert chat(raw).body_for("m") == raw
    assert chat(raw).body_for("m-2") == raw.replace(b'"m"', b'"m-2"')


def test_rewrites_reach_the_body() -> None:
    body = json.loads(chat({"model": "gpt-oss-high"}).body_for("gpt-oss-2"))

    assert body == {"model": "gpt-oss-2", "chat_template_kwargs": {"reasoning_effort": "high"}}


@pytest.mark.parametrize("raw", [b"{}", b'{"model":null}', b'{"model":""}'])
def test_a_body_without_a_model_passes_unchanged(raw: bytes) -> None:
    request = chat(raw)

    assert request.ask.model == ""
    assert request.body_for("anything") == raw


@pytest.mark.parametrize("model", [b"1", b"[]", b"{}", b"true", rb'"\ud800"', rb'"a\udfffb"'])
def test_a_model_that_is_no_text_is_refused(model: bytes) -> None:
    with pytest.raises(BadRequest, match="model"):
        chat(b'{"model":' + model + b"}")


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert chat(rb'{"model":"\ud83e\udd99"}').ask.model == "🦙"


@pytest.mark.parametrize(("stream", "streams"), [(True, True), (False, False), ("yes", False)])
def test_whether_the_answer_streams_is_told(stream: object, streams: bool) -> None:
    assert chat({"model": "m", "stream": stream}).streams is streams


def test_the_slot_is_named_in_the_body_and_nothing_else_changes() -> None:
    raw = b'{"model": "m", "messages": []}'

    assert chat(raw).body_for("m", 3) == b'{"model": "m", "messages": [],"id_slot":3}'


def test_a_slot_that_the_client_names_stays() -> None:
    raw = b'{"model": "m", "id_slot": 1}'

    assert chat(raw).body_for("m", 3) == raw


def test_a_prompt_is_read_only_where_it_matters() -> None:
    raw = json.dumps(system("Hello")).encode()

    assert ChatRequest(raw, "", PATTERN, Rewrites(), reads_prompt=False).ask.prompt is None
    assert chat(raw).ask.prompt is not None
