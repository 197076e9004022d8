"""Plays a scenario against an address, and notes what people wait for."""

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field

import httpx

from app.demo.completion import Completion
from app.demo.prose import tokens_of
from tests.bench.routing.scenarios import Conversation, Scenario, conversations

PATIENCE = 1200.0
"""Seconds that a client waits."""


@dataclass
class Result:
    """What came of a scenario. Times are in seconds."""

    prompt: int = 0
    cached: int = 0
    length: int = 0
    """Tokens of the prompts as modelled: a real model's are cut in another way."""
    best: int = 0
    """Those of them that would come from a cache if every conversation had a slot of its own."""
    waits: dict[str, list[float]] = field(default_factory=dict)
    """Times to the first token, by conversation."""
    wall: float = 0.0
    peaks: tuple[int, ...] = ()
    """The most requests at once at each server."""
    failures: int = 0

    @property
    def share(self) -> float:
        return self.cached / self.prompt if self.prompt else 0.0

    @property
    def of_best(self) -> float:
        return self.share / (self.best / self.length) if self.best else 0.0

    def quantile(self, share: float) -> float:
        """Tell the time within which so many first tokens came."""
        waits = sorted(wait for waits in self.waits.values() for wait in waits)
        return waits[min(len(waits) - 1, int(share * len(waits)))] if waits else 0.0

    @property
    def unfairness(self) -> float:
        """Tell how much longer than the mean the unluckiest conversation waited on average."""
        means = [statistics.mean(waits) for waits in self.waits.values() if waits]
        return max(means) / statistics.mean(means) if means else 0.0


async def play(url: str, model: str, scenario: Scenario) -> Result:
    """Hold all conversations of a scenario at once."""
    result = Result()
    begun = time.monotonic()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as client:
        await asyncio.gather(
            *(_hold(client, model, one, result) for one in conversations(scenario))
        )
    result.wall = time.monotonic() - begun
    return result


async def _hold(
    client: httpx.AsyncClient, model: str, conversation: Conversation, result: Result
) -> None:
    known: list[str] = []
    waits = result.waits.setdefault(conversation.name, [])
    await asyncio.sleep(conversation.pause())
    for _ in range(conversation.turns):
        body = {
            "model": model,
            "max_tokens": conversation.tokens,
            "ignore_eos": conversation.scenario.agents is not None,
            "messages": conversation.ask(),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        prompt = Completion.read(body, model, "", chat=True).prompt
        begun = time.monotonic()
        first, said, usage = None, "", None
        try:
            headers = {"x-forwarded-for": conversation.address}
            path = "/v1/chat/completions"
            async with client.stream("POST", path, json=body, headers=headers) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line[6:])
                        usage = event.get("usage") or usage
                        for choice in event.get("choices", ()):  # an error has none
                            if text := choice["delta"].get("content"):
                                first = first or time.monotonic()
                                said += text
        except httpx.HTTPError:
            result.failures += 1
            continue
        if usage is None or first is None:
            result.failures += 1
            continue
        waits.append(first - begun)
        result.prompt += usage["prompt_tokens"]
        result.cached += usage["prompt_tokens_details"]["cached_tokens"]
        result.length += len(prompt)
        result.best += _common(known, prompt)
        known = prompt + tokens_of(said)
        conversation.hear(said)
        await asyncio.sleep(conversation.pause())


def _common(known: list[str], prompt: list[str]) -> int:
    """Count the tokens that need no work; the last one always does."""
    for count, (one, other) in enumerate(zip(known, prompt, strict=False)):
        if one != other:
            return count
    return min(len(known), len(prompt) - 1)
