"""Prompts that leave a slot of llama.cpp's server come back from its files."""

import asyncio
import json
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests.fakes.balancer import balancer, eventually
from tests.fakes.llama_cpp import AVAILABLE, LONGEST, llama_cpp, write_tiny_model
from tests.fakes.model_host import STREAM_END, ModelHost, event, status
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, chat, chunk, ok

LENGTH = 11_000
"""Characters of a prompt that takes seconds to read, some of them two tokens."""


class Conversation:
    """One with a long prompt."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        text = " ".join(f"{name}{number}" for number in range(LENGTH))[:LENGTH]
        self._messages = [{"role": "user", "content": text}]

    def go_on(self) -> float:
        """Ask once more; return the part of the prompt that came from a cache."""
        body = {"model": "tiny", "max_tokens": 4, "messages": self._messages}
        response = httpx.post(f"{self._url}/v1/chat/completions", json=body, timeout=60)
        assert response.status_code == 200, response.text
        told = response.json()
        said, usage = told["choices"][0]["message"]["content"], told["usage"]
        self._messages += [
            {"role": "assistant", "content": said},
            {"role": "user", "content": "go on"},
        ]
        return float(usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"])


@pytest.mark.skipif(not AVAILABLE, reason="xllamacpp is not installed")
@pytest.mark.timeout(90)
def test_conversations_that_share_one_slot_come_back_even_after_a_restart(tmp_path: Path) -> None:
    model, files, port = tmp_path / "tiny.gguf", tmp_path / "slots", free_port()
    files.mkdir()
    write_tiny_model(model)

    def server() -> AbstractContextManager[str]:
        return llama_cpp(model, port, slots=1, files=files, ram=0, context=LONGEST)

    settings = {"A": {"addr": f"http://127.0.0.1:{port}", "request_max": 1}}
    with balancer(settings, {".*": ["A"]}, ready=False) as running:

        def kind() -> object:
            return running.snapshot()["backends"][0]["kind"]

        with server():
            eventually(lambda: kind() == "llamacpp")
            alice, bob = (Conversation(running.url, name) for name in "AB")
            turns = [one.go_on() for one in (alice, bob, alice, bob, alice)]
            bob.go_on()
        eventually(lambda: kind() is None)
        with server():
            eventually(lambda: kind() == "llamacpp")
            again = alice.go_on()

    assert turns[2] < 0.1  # nothing was saved before it was seen that it is lost
    assert turns[4] > 0.98
    assert again > 0.98
    assert len(list(files.iterdir())) <= 3


async def knows_slots(running: Running) -> bool:
    return await running.backends("kind") == ["llamacpp"]


@pytest.mark.anyio
async def test_a_server_that_saves_no_slots_is_asked_once() -> None:
    asked: list[str] = []

    async def handle(visit: Visit, message: Message) -> bytes | None:
        target = message.start.split()[1]
        if target.startswith("/slots/"):
            asked.append(target)
            return status(501)
        await asyncio.sleep(0.3)  # it reads
        usage = {"prompt_tokens": 300, "prompt_tokens_details": {"cached_tokens": 0}}
        told = json.dumps({"choices": [], "usage": usage | {"completion_tokens": 1}})
        return SSE + event() + chunk(f"data: {told}\n\n".encode()) + STREAM_END

    async def probe(visit: Visit, message: Message) -> bytes | None:
        props = {"total_slots": 1, "endpoint_slots": True}
        pages: dict[str, object] = {"/props": props, "/slots": [{"id": 0}]}
        page = pages.get(message.start.split()[1])
        return host.list_models(message) if page is None else ok(json.dumps(page).encode())

    host = ModelHost(handle, probe=probe)
    async with host.running(), balancing({"A": host}, hold_max=0) as running:
        await running.until(lambda: knows_slots(running))
        for number in range(6):
            who = "ab"[number % 2]
            said = [{"role": "user", "content": f"{who} {number // 9} ".ljust(20_000, who)}]
            body = chat(messages=said, stream=True)
            assert (await running.ask(body)).status == 200
    assert asked == ["/slots/0?action=save"]
