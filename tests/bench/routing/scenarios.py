"""Who asks what of which fleet."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from app.demo.completion import Speed
from tests.simulation import conversations as recorded
from tests.simulation.conversations import BLOCK, CHARACTERS

ANSWER = 24
"""Tokens of a response."""

PREFILL, DECODE = 1_000.0, 60.0
"""Tokens per second of an ordinary machine."""

WORDS = (
    *("alpha", "beta", "gamma", "delta", "kappa", "lambda", "omega", "sigma", "theta", "zeta"),
    *("north", "south", "river", "stone", "cloud", "forest", "harbour", "island", "meadow"),
)


@dataclass(frozen=True)
class Scenario:
    """Conversations on a fleet of four servers.

    A conversation has so many `turns`, each with `question` words beside what was said before,
    and pauses of up to `think` seconds between them. Prompts begin with `system` words, the
    same for all where they are `shared`. With `growing`, the first conversation is an agent
    that says all in one message, which gets longer. A server keeps `ram` tokens of prompts that
    had to leave their slots, as llama.cpp does.

    Or the conversations are recorded, so many `agents`, and chats for the rest. They have `block`
    characters to a block, and so many times their `pace`.
    """

    name: str
    about: str
    slots: int
    conversations: int
    turns: int = 6
    system: int = 250
    question: int = 60
    shared: bool = False
    one_address: bool = False
    growing: bool = False
    think: float = 1.5
    ram: int = 0
    agents: int | None = None
    block: int = 0
    pace: float = 1.0
    speeds: tuple[Speed, ...] = (Speed(PREFILL, DECODE),) * 4

    @property
    def fits(self) -> bool:
        """Whether each conversation can have a slot of its own."""
        return self.conversations <= self.slots * len(self.speeds)


SCENARIOS = (
    Scenario("own-prompts", "own system prompts, one slot a server", 1, 4),
    Scenario(
        "shared-prompt", "a shared system prompt and address", 1, 4, shared=True, one_address=True
    ),
    Scenario(
        "four-slots",
        "a shared system prompt and address, four slots",
        4,
        14,
        shared=True,
        one_address=True,
    ),
    Scenario("overload", "16 conversations on 8 slots", 2, 16, shared=True, turns=4, think=0.5),
    Scenario(
        "overload-ram",
        "16 conversations on 8 slots, and RAM for what leaves them",
        2,
        16,
        turns=4,
        think=0.5,
        ram=1_000_000,
    ),
    Scenario(
        "slow-machine",
        "one machine of a quarter of the speed",
        2,
        6,
        shared=True,
        speeds=(Speed(PREFILL, DECODE),) * 3 + (Speed(PREFILL / 4, DECODE / 4),),
    ),
    Scenario("agent", "an agent's growing message beside chats", 1, 4, growing=True, shared=True),
)

SCALE = 4
"""Recorded talk has so many times as few tokens, which are read and written as much slower."""

BLOCK_TOKENS = BLOCK // SCALE

RECORDED = tuple(
    Scenario(
        name,
        about,
        2,
        conversations,
        turns=20,
        ram=ram * BLOCK_TOKENS,
        agents=agents,
        block=BLOCK_TOKENS * CHARACTERS,
        speeds=(Speed(1000 / SCALE, 50 / SCALE),) * 4,
    )
    for name, about, conversations, agents, ram in (
        ("agents", "16 recorded agents on 8 slots", 16, 16, 0),
        ("agents-ram", "16 recorded agents on 8 slots, RAM of 2,000 blocks", 16, 16, 2000),
        ("agents-chats", "10 recorded agents and 12 chats, RAM of 2,000 blocks", 22, 10, 2000),
        ("eight-agents", "8 recorded agents on 8 slots", 8, 8, 0),
        ("chats", "60 chats on 8 slots", 60, 0, 0),
    )
)
"""Scenarios that take from 10 minutes to an hour each, for each contender."""


@dataclass
class Conversation:
    """One conversation, of which each turn repeats all before it."""

    name: str
    address: str
    random: Random
    scenario: Scenario
    system: str
    grows: bool
    history: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history.append({"role": "system", "content": self.system})

    @property
    def turns(self) -> int:
        """Tell how often it asks."""
        return self.scenario.turns

    @property
    def tokens(self) -> int:
        """Tell how long the next response is."""
        return ANSWER

    def ask(self) -> list[dict[str, str]]:
        """Say something more; gives all the messages."""
        question = prose(self.random, self.scenario.question)
        if self.grows and len(self.history) > 1:
            self.history[1:] = [
                {"role": "user", "content": f"{self.history[1]['content']} {question}"}
            ]
        else:
            self.history.append({"role": "user", "content": question})
        return list(self.history)

    def hear(self, answer: str) -> None:
        """Take a response in."""
        if not self.grows:
            self.history.append({"role": "assistant", "content": answer})

    def pause(self) -> float:
        """Think, for so many seconds."""
        return self.random.uniform(0.2, 1.0) * self.scenario.think


@dataclass
class Recorded(Conversation):
    """One that was recorded, and is held again at its own pace."""

    requests: list[recorded.Request] = field(default_factory=list)
    _asked: int = 0

    @property
    def turns(self) -> int:
        return len(self.requests)

    @property
    def tokens(self) -> int:
        return max(1, int(self.requests[self._asked].tokens / SCALE / self.scenario.pace))

    def ask(self) -> list[dict[str, str]]:
        length = self.scenario.block
        messages = []
        for start, blocks in self.requests[self._asked].texts:
            role, _, said = start.partition("\n")
            messages.append({"role": role, "content": _tokens(said, blocks * length)})
        self._asked += 1
        return messages

    def hear(self, answer: str) -> None:
        """Go on as it was recorded, whatever the response was."""

    def pause(self) -> float:
        at_end = self._asked == len(self.requests)
        return 0.0 if at_end else self.requests[self._asked].pause / self.scenario.pace


def conversations(scenario: Scenario) -> Iterator[Conversation]:
    """Make the conversations, the same ones each time."""
    if scenario.agents is not None:
        yield from _recorded(scenario, scenario.agents)
        return
    shared = prose(Random(scenario.name), scenario.system)
    for number in range(scenario.conversations):
        random = Random(f"{scenario.name} {number}")
        system = shared if scenario.shared else prose(random, scenario.system)
        address = "10.0.0.1" if scenario.one_address else f"10.0.0.{number + 1}"
        grows = scenario.growing and number == 0
        yield Conversation(f"{number}", address, random, scenario, system, grows)


@functools.lru_cache(maxsize=1000)
def _tokens(seed: str, length: int) -> str:
    """Write so many characters, of which four are a token of a modelled server."""
    random = Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(f" {''.join(random.choices(letters, k=3))}" for _ in range(length // 4))


def _recorded(scenario: Scenario, agents: int) -> Iterator[Conversation]:
    chance = Random(scenario.name)
    talk = recorded.agents(agents, chance, scenario.turns)
    talk += recorded.chats(scenario.conversations - agents, chance)
    for number, one in enumerate(talk, 1):
        one.requests[0].pause = chance.random() * 30
        address = f"10.0.0.{number}"
        yield Recorded(one.name, address, chance, scenario, "", grows=False, requests=one.requests)


def prose(random: Random, words: int) -> str:
    """Say so many words."""
    return " ".join(random.choice(WORDS) for _ in range(words))
