"""API keys: who a request's credentials say that its client is, and what a client may use."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

HASH: Final = "sha256:"
"""How the hash of a key begins where it is written in place of the key."""

ADMIN: Final = "(admin)"
"""The name of the admin key; no other key may have it."""

CREDENTIALS: Final = frozenset({b"authorization", b"cookie", b"x-api-key"})
"""Headers by which clients show who they are."""


class Key:
    """A key's name, and what it allows. Who has the `admin` key may do everything."""

    __slots__ = ("admin", "models", "name")

    def __init__(
        self, name: str, models: Iterable[re.Pattern[str]] = (), *, admin: bool = False
    ) -> None:
        self.name = name
        self.models = tuple(models)
        """Patterns for the whole names of models; all are allowed where there are none."""
        self.admin = admin

    def allows(self, model: str) -> bool:
        """Whether a model may be used; its name is the one behind any alias."""
        if not self.models:
            return True
        return any(pattern.fullmatch(model) is not None for pattern in self.models)


class KeyRing:
    """All keys. Only their hashes are held, so that a dump of the memory tells none."""

    def __init__(self, keys: Iterable[tuple[str, Key]], admin_key: str | None = None) -> None:
        """Take keys, each written as itself or as its hash, see `hash_of`.

        Nobody needs a key where there are none but the admin key.
        """
        self._keys = {bytes.fromhex(hash_of(text)[len(HASH) :]): key for text, key in keys}
        self.required = bool(self._keys)
        """Whether clients need a key."""
        self.has_admin = admin_key is not None
        if admin_key is not None:
            self._keys[_digest(admin_key.encode())] = Key(ADMIN, admin=True)

    def find(self, fields: Mapping[bytes, bytes]) -> Key | None:
        """Return the key that a request's headers show; None where it is none of ours.

        Looked up by its hash: how long that takes tells nothing of any key.
        """
        given = _given(fields)
        return None if given is None else self._keys.get(_digest(given))


def hash_of(key: str) -> str:
    """Write the hash of a key, if it is not written so already."""
    return key if key.startswith(HASH) else HASH + _digest(key.encode()).hex()


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()


def _given(fields: Mapping[bytes, bytes]) -> bytes | None:
    """Read a key: a bearer's (RFC 6750 section 2.1), Anthropic's header, or a password.

    Browsers send a password for an event stream, too, and no other header (RFC 7617).
    https://docs.anthropic.com/en/api/overview#authentication
    """
    authorization = fields.get(b"authorization")
    if authorization is not None:
        scheme, _, rest = authorization.partition(b" ")
        scheme, rest = scheme.lower(), rest.strip()
        if scheme == b"bearer":
            return rest
        if scheme == b"basic":
            try:
                return base64.b64decode(rest, validate=True).partition(b":")[2]
            except binascii.Error:
                return None
    return fields.get(b"x-api-key")
