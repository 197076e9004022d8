"""Hashes of texts that nobody can make collide, as they are keyed by a secret.

Python has one for each process. Where several balancers tell each other what caches hold, they
have one in common, and take a hash that all compute alike.
"""

from hashlib import blake2b
from typing import Final


class Secret:
    """What hashes of texts are keyed by."""

    __slots__ = ("key",)

    def __init__(self) -> None:
        self.key: bytes | None = None
        """16 to 64 bytes that all replicas have; None: Python's own, of this process."""


SECRET: Final = Secret()
"""The one of this process: texts that are to be compared must be hashed alike."""


def hash_text(text: str) -> int:
    """Hash a text."""
    key = SECRET.key
    return hash(text) if key is None else keyed(key, 0, text)


def keyed(key: bytes, prefix: int, text: str) -> int:
    """Hash a text that follows others, by their own hash: 60 bits, by BLAKE2 (RFC 7693)."""
    said = prefix.to_bytes(8, "big") + text.encode(errors="surrogatepass")
    return int.from_bytes(blake2b(said, digest_size=8, key=key).digest(), "big") >> 4
