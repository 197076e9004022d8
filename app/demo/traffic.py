"""People who chat: a trickle of requests, with what goes wrong in life.

python -m app.demo.traffic --url http://127.0.0.1:18000 --models qwen3:8b,gpt-oss:20b
"""

import argparse
import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator, Sequence
from random import Random

import httpx

USERS = ("Alice", "Bob", "Carol")
QUESTIONS = (
    "What does a load balancer do all day?",
    "Why is the second question answered sooner than the first?",
    "What is a slot?",
    "Who waits when all servers are full?",
    "And what happens at night?",
)

RULES = "Be brief and kind, quote no more than a line, and say so where you are not sure. " * 12
"""What a chat UI has its models told: a prompt of some length, the same for all."""


async def ask(
    client: httpx.AsyncClient, model: str, messages: list[dict[str, str]]
) -> AsyncGenerator[str, None]:
    """Stream an answer's text, piece by piece.

    Raises:
        httpx.HTTPError: the answer is an error, or breaks off.
    """
    body = {"model": model, "stream": True, "messages": messages}
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    yield choice["delta"].get("content") or ""


async def chat(client: httpx.AsyncClient, model: str, user: str) -> None:
    """Ask questions for ever, one conversation after another."""
    random = Random(user)
    while True:
        messages = [{"role": "system", "content": f'The user\'s name is "{user}". {RULES}'}]
        for question in random.sample(QUESTIONS, len(QUESTIONS)):
            await asyncio.sleep(random.uniform(3, 12))
            messages.append({"role": "user", "content": question})
            try:
                answer = "".join([piece async for piece in ask(client, model, messages)])
            except httpx.HTTPError:
                break  # whoever plays with the demo may fill or stop a server
            messages.append({"role": "assistant", "content": answer})


async def stumble(client: httpx.AsyncClient, model: str) -> None:
    """Do what clients do at times: leave early, misspell a model, send nonsense, embed."""
    random = Random(model)
    question = [{"role": "user", "content": QUESTIONS[0]}]
    for number in itertools.count():
        await asyncio.sleep(random.uniform(2, 8))
        with contextlib.suppress(httpx.HTTPError):
            pieces = ask(client, model, question)
            await anext(pieces)
            await pieces.aclose()
            if number % 10 == 0:  # more often, an alert and the boards would tell of trouble
                await client.post("/v1/chat/completions", json={"model": "qwen", "messages": []})
                await client.post("/v1/chat/completions", content=b"{")
            await client.post("/v1/chat/completions", json={"model": model, "messages": question})
            await client.post("/v1/embeddings", json={"model": model, "input": QUESTIONS[1]})


async def trickle(url: str, models: Sequence[str]) -> None:
    """Let everybody chat with every model."""
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        chats = [
            chat(client, model, f"{user} {n}") for n, model in enumerate(models) for user in USERS
        ]
        await asyncio.gather(*chats, *(stumble(client, model) for model in models))


def main() -> None:
    """Chat until a signal comes."""
    parser = argparse.ArgumentParser(description="People who chat.")
    parser.add_argument("--url", default="http://127.0.0.1:18000")
    parser.add_argument("--models", default="qwen3:8b", help="names, separated by commas")
    asked = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(trickle(asked.url, asked.models.split(",")))


if __name__ == "__main__":
    main()
