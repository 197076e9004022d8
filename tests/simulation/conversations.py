"""Conversations: recorded coding agents, and chats that are made up.

The agents' sessions are condensed from the public traces of callanjfox/kv-cache-tester
(Apache-2.0); no text is in them, only times, counts, and which blocks prompts share.
"""

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from app.routing.prompt import Prompt

SESSIONS: Final = Path(__file__).with_name("agent-sessions.jsonl.gz")

BLOCK: Final = 64
"""Tokens of a block."""

CHARACTERS: Final = 4
"""Characters of a token."""

LONGEST_PAUSE: Final = 60.0
"""Seconds between a response and the next request: who is away for longer is another question."""


@dataclass
class Request:
    """One request of a conversation; lengths are in blocks of the prompt."""

    pause: float
    """Seconds since the response before it."""
    tokens: int
    """Those of its response."""
    blocks: int
    shared: int
    """How many its prompt has in common with the one before."""
    prompt: Prompt
    texts: list[tuple[str, int]]
    """Of each message, how it begins, and its blocks; its role stands in the first line."""


@dataclass
class Conversation:
    """Requests, each after the response to the one before."""

    name: str
    kind: str
    system: int
    """Blocks with which all its prompts begin, as those of its kind do."""
    requests: list[Request]
    done: int = 0
    asked_at: float = 0.0
    waits: list[float] = field(default_factory=list)
    """Seconds until the first token, by request."""


class _Text:
    """A prompt that grows, and is cut back, by blocks."""

    def __init__(self, name: str, system: int, kind: str) -> None:
        self._name = name
        self._messages = [(f"system\n{kind} ", system)]
        self._count = 0

    def go_on(self, shared: int, new: int) -> list[tuple[str, int]]:
        kept: list[tuple[str, int]] = []
        blocks = 0
        for text, length in self._messages:
            if blocks + length > shared and kept:
                break
            kept.append((text, length))
            blocks += length
        # The system prompt is new the first time, and stays whatever is cut back.
        for length in (shared - blocks, new - max(0, blocks - shared)):
            if length > 0:
                self._count += 1
                kept.append((f"user\n{self._name} {self._count} ", length))
        self._messages = kept
        return kept.copy()


def _prompt(texts: list[tuple[str, int]]) -> Prompt:
    return Prompt([words(start, BLOCK * CHARACTERS * blocks) for start, blocks in texts], opening=1)


def words(start: str, length: int) -> str:
    """Write a text of so many characters."""
    return (start * (length // len(start) + 1))[:length]


def agents(count: int, chance: random.Random, longest: int = 40) -> list[Conversation]:
    """Pick recorded sessions, each of so many requests at the most."""
    with gzip.open(SESSIONS, "rt") as file:
        sessions = [json.loads(line) for line in file]
    picked = chance.sample(sessions, len(sessions))[:count]
    return [_agent(f"agent{number}", session, longest) for number, session in enumerate(picked)]


def _agent(name: str, recorded: dict[str, Any], longest: int) -> Conversation:
    system = recorded["system_blocks"]
    text = _Text(name, max(1, system), name if system == 0 else "agents")
    requests: list[Request] = []
    last: float | None = None
    for at, tokens, shared, new in recorded["requests"][:longest]:
        pause = 0.0 if last is None else min(LONGEST_PAUSE, max(0.0, at - last))
        texts = text.go_on(shared, len(new))
        blocks = shared + len(new)
        requests.append(Request(pause, tokens, blocks, shared, _prompt(texts), texts))
        last = at
    return Conversation(name, "agent", system, requests)


def chats(count: int, chance: random.Random) -> list[Conversation]:
    """Make up people who ask ten times, and think in between."""
    return [_chat(f"chat{number}", chance) for number in range(count)]


def _chat(name: str, chance: random.Random) -> Conversation:
    system, blocks = 5, 10
    text = _Text(name, system, "chats")
    requests: list[Request] = []
    for turn in range(10):
        shared, new = (0, blocks) if turn == 0 else (blocks, chance.randint(4, 9))
        blocks = shared + new
        pause = 0.0 if turn == 0 else chance.uniform(10, 60)
        texts, tokens = text.go_on(shared, new), chance.randint(80, 400)
        requests.append(Request(pause, tokens, blocks, shared, _prompt(texts), texts))
    return Conversation(name, "chat", system, requests)


def possible(conversations: Sequence[Conversation]) -> float:
    """Return the share of all prompts that is cached where nothing is ever evicted."""
    requests = [request for one in conversations for request in one.requests]
    return sum(request.shared for request in requests) / sum(request.blocks for request in requests)
