"""A prompt as far as routing needs it: where it begins like another one."""

from collections.abc import Sequence
from typing import Final

BLOCK: Final = 256
"""Length of a block of text, in characters: some 60 tokens of English, 150 of Japanese."""


class Prompt:
    """Marks along a prompt's text: one after each message, and after each block of a long one.

    A mark is a hash of all text before it, so that two prompts begin alike exactly as far as
    they have marks in common. The text itself is not kept. Marks mean something in this process
    alone: Python's hash of a text is keyed by a random secret, so nobody can make two texts
    collide.
    """

    __slots__ = ("anchor", "end", "ends", "opening", "size")

    def __init__(self, messages: Sequence[str], opening: int | None = None) -> None:
        """Mark a prompt, message by message.

        `opening` is the index of the first message of the conversation that is its own: the
        user's first. Messages must not be empty.
        """
        ends: dict[int, int] = {}
        mark = size = before = own = 0
        for index, message in enumerate(messages):
            length = len(message)
            before = 0
            if length <= BLOCK:
                mark = hash((mark, message))
            else:
                start = 0
                while start < length:
                    before, mark = mark, hash((mark, message[start : start + BLOCK]))
                    start += BLOCK
                    ends[mark] = size + start
                if start == length:
                    before = 0
            size += length
            ends[mark] = size
            if index == opening:
                own = mark
        self.ends = ends
        """How many characters stand before each mark."""
        self.size = size
        """Length of the whole, in characters."""
        self.end = mark
        """The mark after all of it."""
        self.anchor = before or mark
        """The last mark that whatever continues this prompt has, too; 0 where it is empty.

        A message that ends within a block may grow by more text, so of a long last message
        the last block does not count.
        """
        self.opening = own
        """The mark that ends the first message of the conversation's own; 0 where there is none."""

    def shared(self, earlier: "Prompt") -> int:
        """Count the characters that this prompt surely repeats of an earlier one, if it goes on.

        It goes on where it extends the earlier prompt, or where it is the same conversation
        with its end said anew. It does not where both merely begin alike, as all do that share
        a system prompt: then 0.
        """
        ends = self.ends
        if earlier.end in ends:
            return ends[earlier.end]
        if earlier.anchor in ends:
            return ends[earlier.anchor]
        if earlier.opening and earlier.opening == self.opening:
            known = max(ends[mark] for mark in earlier.ends.keys() & ends.keys())
            if 2 * known >= earlier.size:
                return known
        return 0

    def __repr__(self) -> str:
        return f"<Prompt of {self.size} characters>"
