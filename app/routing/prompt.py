"""A prompt as far as routing needs it: where it begins like another one."""

from collections.abc import Sequence
from typing import Any, Final

from app.routing.text_hash import SECRET, hash_text, keyed

BLOCK: Final = 256
"""Length of a block of text, in characters: some 60 tokens of English, 150 of Japanese."""

FINE: Final = 1024 * 1024
"""Up to how many characters of a message are taken in such blocks."""

COARSE: Final = 64 * BLOCK
"""Length of the blocks behind that, in characters: books change at their end, if anywhere."""

FRONT: Final = 256 * 1024
"""Up to how many characters the front of a conversation is kept, to say what changed in it."""

MOST_NAMED: Final = 64
"""How many of a prompt's prefix hashes, and of its messages, others are told."""

SPAN: Final = 200
"""By how many characters the front of a conversation, its system prompt say, may grow or shrink."""


class Prompt:
    """Prefix hashes of a prompt: one after each message, and after each block of a long one.

    A prefix hash is that of all text before it, so two prompts begin alike exactly as far as they
    have prefix hashes in common. Of the text only the front is kept, so that it can be said what
    changed in it. The hashes mean something only to those who have the same secret; see
    `text_hash`.
    """

    __slots__ = (
        "_contents",
        "_front",
        "_topic",
        "base",
        "brief",
        "ends",
        "front",
        "opening",
        "prefixes",
        "reasoned",
        "size",
        "whole",
    )

    def __init__(
        self,
        messages: Sequence[str],
        opening: int | None = None,
        reasoned: Sequence[int] = (),
    ) -> None:
        """Hash a prompt, message by message.

        `opening` is the index of the first message of the conversation that is its own: the
        user's first; `reasoned` are those of the messages that came with a model's reasoning.
        Messages must not be empty.
        """
        self.brief = False
        """Whether few tokens are asked for, as of a title or of tags for a conversation."""
        prefixes: dict[int, int] = {}
        contents: list[int] = []
        ends: list[int] = []
        prefix = size = before = own = front = topic = 0
        key = SECRET.key
        for index, message in enumerate(messages):
            length = len(message)
            before = 0
            block = message
            if length <= BLOCK:
                prefix = hash((prefix, message)) if key is None else keyed(key, prefix, message)
            else:
                start = 0
                while start < length:
                    step = BLOCK if start < FINE else COARSE
                    block = message[start : start + step]
                    before = prefix
                    prefix = hash((prefix, block)) if key is None else keyed(key, prefix, block)
                    start += step
                    if start < length:
                        prefixes[prefix] = size + start
                if start == length:
                    before = 0
            size += length
            ends.append(size)
            prefixes[prefix] = size
            if opening is not None and index >= opening:
                content = hash_text(block)
                contents.append(content)
                if index == opening:
                    own, topic, front = prefix, content, size - length
        self.reasoned = tuple(reasoned)
        """Which messages came with a model's reasoning, which is no part of the prompt here."""
        self.front = tuple(messages[:opening]) if opening and front <= FRONT else ()
        """The messages before the conversation's own first one: tools, system messages."""
        self.ends = ends
        """Where each message ends, in characters."""
        self._contents = contents
        """The hashes of the ends of the conversation's own messages."""
        self._topic = topic
        """The hash of the end of the conversation's first own message; 0 if it has none."""
        self._front = front
        """How many characters stand before it."""
        self.prefixes = prefixes
        """How many characters stand before each prefix hash."""
        self.size = size
        """Length of the whole, in characters."""
        self.whole = prefix
        """The prefix hash of all of it."""
        self.base = before or prefix
        """The last prefix hash that whatever continues this prompt has, too; 0 where it is empty.

        A message that ends within a block may grow by more text, so of a long last message
        the last block does not count.
        """
        self.opening = own
        """The prefix hash after the first message of the conversation's own; 0 if it has none."""

    def shared(self, earlier: "Prompt") -> int:
        """Count the characters that this prompt surely repeats of an earlier one, if it goes on.

        It goes on where it extends the earlier prompt, or where it is the same conversation
        with its end said anew. It does not where both merely begin alike, as all do that share
        a system prompt: then 0.
        """
        prefixes = self.prefixes
        if earlier.whole in prefixes:
            return prefixes[earlier.whole]
        if earlier.base in prefixes:
            return prefixes[earlier.base]
        if earlier.opening and earlier.opening == self.opening:
            known = self.repeated(earlier)
            if 2 * known >= earlier.size:
                return known
        return 0

    def repeated(self, earlier: "Prompt") -> int:
        """Count the characters at the beginning that both have in common."""
        prefixes = self.prefixes
        return max([prefixes[x] for x in earlier.prefixes.keys() & prefixes.keys()], default=0)

    def changes(self, earlier: "Prompt") -> bool:
        """Whether this is the conversation of an earlier prompt with a text in it that differs.

        Such a text may be a clock in the system prompt, a reminder that moves from message to
        message, or tools in another order.
        """
        if not earlier._topic or earlier._topic != self._topic:
            return False
        if abs(self._front - earlier._front) > SPAN:
            return False  # a title for the conversation, say: another system prompt
        return 2 * self._says_again(earlier) >= earlier.size - earlier._front

    def reads_again(self, earlier: "Prompt") -> int:
        """Count the characters that a cache of the earlier prompt holds in vain.

        They are in this prompt as well, but behind a text that differs. There are none where
        it merely goes on, or where it goes on from an earlier point in another way.
        """
        prefixes = self.prefixes
        if earlier.whole in prefixes or earlier.base in prefixes:
            return 0
        ahead = max(0, self.repeated(earlier) - earlier._front)
        return max(0, self._says_again(earlier) - ahead)

    def _says_again(self, earlier: "Prompt") -> int:
        said = self._said()
        return sum([size for message, size in earlier._said().items() if message in said])

    def _said(self) -> dict[int, int]:
        """Count the characters of the conversation's own messages, by hashes of their ends."""
        said: dict[int, int] = {}
        ends = self.ends
        first = len(ends) - len(self._contents)
        before = self._front
        for number, content in enumerate(self._contents, first):
            said[content] = said.get(content, 0) + ends[number] - before
            before = ends[number]
        return said

    def says_all_of(self, earlier: "Prompt") -> bool:
        """Whether every message of an earlier prompt is somewhere in this one."""
        return {*earlier._contents} <= {*self._contents}

    def summary(self) -> dict[str, Any]:
        """Sum up what others need to know of it, in 4 KB at the most: no text.

        Of many prefix hashes every second is named, or every fourth, and so on, so that two
        prompts of a conversation name the same ones; of many messages the largest.
        """
        step = 1
        while len(self.prefixes) > step * MOST_NAMED:
            step *= 2
        named = [pair for at, pair in enumerate(self.prefixes.items(), 1) if at % step == 0]
        said = list(self._said().items())
        if len(said) > MOST_NAMED:
            least = sorted([size for _, size in said], reverse=True)[MOST_NAMED - 1]
            said = [pair for pair in said if pair[1] >= least][:MOST_NAMED]
        return {
            "size": self.size,
            "ends": [self.whole, self.base, self.opening],
            "topic": [self._topic, self._front],
            "prefixes": named,
            "said": said,
        }

    @staticmethod
    def summed_up(summary: dict[str, Any]) -> "Prompt":
        """Make a prompt of its summary, to be compared with others."""
        prompt = Prompt(())
        prompt.size = summary["size"]
        prompt.whole, prompt.base, prompt.opening = summary["ends"]
        prompt._topic, prompt._front = summary["topic"]
        prompt.prefixes = dict(summary["prefixes"])
        end = prompt._front
        for content, size in summary["said"]:
            end += size
            prompt._contents.append(content)
            prompt.ends.append(end)
        return prompt

    def __repr__(self) -> str:
        return f"<Prompt of {self.size} characters>"
