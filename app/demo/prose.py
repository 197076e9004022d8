"""What a modelled model says: plain sentences, cut into tokens, the same for the same prompt."""

import math
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

DIMENSIONS = 8
"""Of an embedding."""

_SUBJECTS = (
    "a small model",
    "the balancer",
    "the first server",
    "the prompt cache",
    "a patient client",
    "the second graphics card",
    "a long conversation",
    "the queue",
)
_VERBS = ("keeps", "finds", "waits for", "remembers", "shares", "answers", "prefers", "hands over")
_OBJECTS = (
    "the shortest way",
    "a free slot",
    "the words it has seen before",
    "its neighbour's work",
    "one token after another",
    "what the next question needs",
    "the machine with room to spare",
    "a calm afternoon",
)
_ENDS = ("", " at night", " without a word", " for a while", ", and nobody notices", " once more")


def tokens_of(text: str) -> list[str]:
    """Cut a text into pieces of at most four characters; joined they are the text again."""
    return re.findall(r"\s*\S{1,4}|\s+", text)


def answer_to(prompt: Sequence[str], most: int | None, *, endless: bool) -> Iterator[str]:
    """Give the answer's tokens: a few sentences, or `most` tokens where the answer is endless."""
    random = _random("".join(prompt))
    sentences = _sentences(random)
    if not endless:
        sentences = islice(sentences, random.randint(3, 6))
    tokens = (token for sentence in sentences for token in tokens_of(sentence))
    return islice(tokens, most)


def vector_of(text: str) -> list[float]:
    """Give a text's embedding, of length 1."""
    random = _random(text)
    vector = [random.gauss(0, 1) for _ in range(DIMENSIONS)]
    length = math.hypot(*vector)
    return [value / length for value in vector]


def _random(text: str) -> Random:
    return Random(zlib.crc32(text.encode(errors="replace")))


def _sentences(random: Random) -> Iterator[str]:
    space = ""
    while True:
        words = " ".join(map(random.choice, (_SUBJECTS, _VERBS, _OBJECTS))) + random.choice(_ENDS)
        yield f"{space}{words[0].upper()}{words[1:]}."
        space = " "
