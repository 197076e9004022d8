import contextlib
import json
import re
from dataclasses import replace

import pytest

from app.apis.aliases import Aliases
from app.apis.endpoints import CHAT_PATH
from app.apis.json_body import BadRequest
from app.apis.rewrites import Rewrites
from app.proxy.model_request import (
    SYSTEM_TEXT_LIMIT,
    ModelRequest,
    Reading,
    UnroutedRequest,
    username_finder,
)
from app.routing.choice import Ask

READING = Reading(username_finder(re.compile(r"name is (\w+)")), Rewrites())


def chat(body: object, address: str = "10.0.0.1", reading: Reading = READING) -> ModelRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ModelRequest(reading, CHAT_PATH, raw, address)


def system(content: object, role: str = "system") -> dict[str, object]:
    return {"model": "m", "messages": [{"role": role, "content": content}]}


def test_the_client_is_the_user_of_the_system_message() -> None:
    request = chat(system("The user's name is alice."))

    assert request.username == "alice"
    assert replace(request.ask, prompt=None) == Ask("m", ("m",), "alice", "10.0.0.1")


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
    reading = replace(READING, username=username_finder(re.compile("name is (.)")))
    body = rb'{"model":"m","messages":[{"role":"system","content":"name is \ud800"}]}'
    request = chat(body, reading=reading)

    assert request.username == "?"


def test_the_body_names_the_instance_and_changes_in_nothing_else() -> None:
    raw = b'{ "model" : "m", "messages": [ ], "x": 1.0 }'

    assert chat(raw).body_for("m") is not None
    assert chat(raw).body_for("m") == raw
    assert chat(raw).body_for("m-2") == raw.replace(b'"m"', b'"m-2"')


def test_a_body_that_asks_for_the_usage_differs_in_that_alone() -> None:
    raw = b'{ "model":"m", "stream_options" : {"other": 1}, "stream":true,"messages":[] }'
    options = b'{"other": 1, "include_usage": true}'
    assert chat(raw).hides_usage
    assert chat(raw).body_for("m", usage=True) == raw.replace(b'{"other": 1}', options)
    assert not chat(raw.replace(b"true", b"false")).hides_usage
    assert not chat(raw.replace(b'{"other": 1}', options)).hides_usage


def test_rewrites_reach_the_body() -> None:
    body = json.loads(chat({"model": "gpt-oss-high"}).body_for("gpt-oss-2"))

    assert body == {
        "model": "gpt-oss-2",
        "chat_template_kwargs": {"reasoning_effort": "high"},
        "reasoning_effort": "high",
    }


def test_ollamas_own_api_has_a_word_of_its_own_for_the_effort() -> None:
    body = {"model": "gpt-oss:20b-high", "messages": []}
    served = other("/api/chat", body).body_for("gpt-oss:20b")

    assert json.loads(served) == {"model": "gpt-oss:20b", "messages": [], "think": "high"}


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


def test_a_request_for_several_answers_names_no_slot() -> None:
    raw = b'{"model": "m", "n": 2}'

    assert chat(raw).body_for("m", 3) == raw


def test_a_prompt_is_read_only_where_it_matters() -> None:
    raw = json.dumps(system("Hello")).encode()

    assert chat(raw, reading=replace(READING, prompts=False)).ask.prompt is None
    assert chat(raw).ask.prompt is not None


def other(path: str, body: object, reading: Reading = READING) -> ModelRequest:
    return ModelRequest(reading, path, json.dumps(body).encode(), "10.0.0.1")


@pytest.mark.parametrize("levels", [300, 1_000, 1_020, 100_000])
def test_messages_that_nest_deeply_are_read_or_the_clients_mistake(levels: int) -> None:
    deep = b"[" * levels + b"]" * levels
    parts = b'[{"content":' * (levels // 2) + b"1" + b"}]" * (levels // 2)
    for tools, content in ((deep, b'""'), (b"[]", parts)):
        messages = b'[{"role":"user","content":%b}]' % content
        with contextlib.suppress(BadRequest):
            body = b'{"model":"m","tools":%b,"messages":%b}' % (tools, messages)
            assert chat(body).ask.prompt is not None


def test_a_request_without_a_model_is_not_routed_by_one() -> None:
    assert not chat({"messages": []}).ask.routed
    assert chat({"model": "m", "messages": []}).ask.routed


def test_an_alias_is_routed_and_sent_on_as_the_model_that_it_stands_for() -> None:
    request = chat(
        {"model": "gpt-4o"}, reading=replace(READING, aliases=Aliases({"gpt-4o": "qwen3:8b"}))
    )

    assert request.ask.model == "qwen3:8b"
    assert json.loads(request.body_for("qwen3:8b")) == {"model": "qwen3:8b"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"system": [{"type": "text", "text": "name is bob"}]}),
        ("/v1/messages", {"system": "name is bob"}),
        ("/v1/responses", {"instructions": "name is bob", "input": "Hi"}),
        ("/api/generate", {"system": "name is bob", "prompt": "Hi"}),
        ("/api/chat", {"messages": [{"role": "system", "content": "name is bob"}]}),
    ],
)
def test_the_system_message_is_found_in_every_api(path: str, body: dict[str, object]) -> None:
    assert other(path, {"model": "m", **body}).username == "bob"


def test_only_chat_completions_are_rewritten_beyond_the_model() -> None:
    request = other("/v1/completions", {"model": "gpt-oss-high", "prompt": "Hi"})

    assert json.loads(request.body_for("gpt-oss")) == {"model": "gpt-oss", "prompt": "Hi"}


def test_a_slot_is_named_only_where_the_server_reads_it() -> None:
    body = {"model": "m", "input": "Hi"}

    assert json.loads(other("/v1/embeddings", body).body_for("m", 1)) == body


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\n\x00model\xff\r\n"
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n--x--\r\n'
)


def test_the_model_of_an_uploaded_recording_is_read_and_replaced_and_nothing_else() -> None:
    request = ModelRequest(
        READING,
        "/v1/audio/transcriptions",
        FORM,
        "10.0.0.1",
        {b"content-type": b"multipart/form-data; boundary=x"},
    )

    assert request.ask.model == "whisper"
    assert request.body_for("whisper") == FORM
    assert request.body_for("whisper-2") == FORM.replace(b"whisper", b"whisper-2")


def test_anthropics_own_server_gets_its_line_and_no_other_does() -> None:
    line = "x-anthropic-billing-header: cch=1;\nBe kind."
    body = {"model": "claude", "system": line, "messages": [{"role": "user", "content": "Hi"}]}
    raw = json.dumps(body).encode()

    for request in (
        ModelRequest(READING, "/v1/messages", raw, "10.0.0.1"),
        UnroutedRequest(READING.rewrites, "/v1/messages", raw, "10.0.0.1"),
    ):
        assert request.body_for("claude", None, b"api.anthropic.com") == raw
        assert b"billing" not in request.body_for("claude", None, b"tower:8080")
