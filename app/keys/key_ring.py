"""API keys: who a request's credentials say that its client is, and what a client may use."""

import base64
import binascii
import contextlib
import hmac
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from time import time
from typing import Final

from app.keys.allowance import Allowance
from app.keys.priority import Priority

HASH: Final = "sha256:"
"""How the hash of a key begins where it is written in place of the key."""

ADMIN: Final = "(admin)"
"""The name of the admin key; no other key may have it."""

CREDENTIALS: Final = frozenset({b"authorization", b"cookie", b"x-api-key"})
"""Headers by which clients show who they are."""

SESSION: Final = b"llama_balancer_session"
"""The cookie of a session at our own page; no server gets it."""

MOST_KNOWN: Final = 10_000
"""How many headers are remembered that have opened: one can be written in many ways."""

LONGEST_KNOWN: Final = 256
"""Longest of them, in bytes: one may have any number of spaces in it."""


class Key:
    """A key's name, and what it allows. Who has the `admin` key may do everything."""

    __slots__ = ("admin", "allowance", "expires", "hints", "models", "name", "priority")

    def __init__(
        self,
        name: str,
        models: Iterable[re.Pattern[str]] = (),
        *,
        allowance: Allowance | None = None,
        expires: float | None = None,
        priority: Priority = "normal",
        hints: bool = False,
        admin: bool = False,
    ) -> None:
        self.name = name
        self.models = tuple(models)
        """Patterns for the whole names of models; all are allowed where there are none."""
        self.allowance = Allowance() if allowance is None else allowance
        self.expires = expires
        """When it opens nothing any more, in seconds since the epoch; None for never."""
        self.priority: Priority = priority
        self.hints = hints
        """Whether its requests may say which servers they would like."""
        self.admin = admin

    def allows(self, model: str) -> bool:
        """Whether a model may be used; its name is the one behind any alias."""
        if not self.models:
            return True
        return any(pattern.fullmatch(model) is not None for pattern in self.models)


class KeyRing:
    """All keys, by their hashes: what is written down of a key opens nothing."""

    def __init__(
        self,
        keys: Iterable[tuple[str, Key]],
        admin_key: str | None = None,
        *,
        metrics_key: str | None = None,
        required: bool = False,
    ) -> None:
        """Take keys, each written as itself or as its hash, see `hash_of`.

        Nobody needs a key where there are none but the admin key, unless it is `required`. The
        `metrics_key` opens the metrics, and is no client's.
        """
        self._metrics = None if metrics_key is None else _digest(metrics_key.encode())
        self._admin: dict[bytes, Key] = {}
        if admin_key is not None:
            self._admin[_digest(admin_key.encode())] = Key(ADMIN, admin=True)
        self._admitted: dict[bytes, Key] = {}
        self._keys: dict[bytes, Key] = {}
        self._known: dict[bytes, Key] = {}
        """What headers have opened: to hash one takes 3 % of a short request."""
        self.replace(keys)
        self.required = required or len(self._keys) > len(self._admin)
        """Whether clients need a key."""
        self.has_admin = admin_key is not None

    @property
    def has_metrics(self) -> bool:
        """Whether there is a metrics key."""
        return self._metrics is not None

    def limited(self) -> dict[str, Allowance]:
        """Return what the keys allow that have limits, by their names."""
        keys = {key.name: key.allowance for key in self._keys.values()}
        return {name: one for name, one in keys.items() if any(one.limits)}

    def replace(self, keys: Iterable[tuple[str, Key]]) -> None:
        """Take other keys from now on; what was done under a name goes on counting for it.

        Requests under way end as they would have.
        """
        found = {bytes.fromhex(hash_of(text)[len(HASH) :]): key for text, key in keys}
        self._hand_down(found.values())
        self._keys = {**found, **self._admin, **self._admitted}
        self._known = {}

    def admit(self, key: str) -> None:
        """Take one key more for the administrator's, that no setting names."""
        self._admitted[_digest(key.encode())] = Key(ADMIN, admin=True)
        self._keys |= self._admitted

    def become(self, other: "KeyRing") -> None:
        """Take another ring's keys from now on, see `replace`."""
        self._hand_down(other._keys.values())
        self._keys = {**other._keys, **self._admitted}
        self._admin, self._metrics = other._admin, other._metrics
        self._known = {}
        self.required, self.has_admin = other.required, other.has_admin

    def _hand_down(self, keys: Iterable[Key]) -> None:
        """Have keys go on counting what was done under their names."""
        before = {key.name: key for key in self._keys.values()}
        for key in keys:
            if key.name in before:
                key.allowance = before[key.name].allowance.changed(key.allowance)

    def find(self, fields: Mapping[bytes, bytes]) -> Key | None:
        """Return the key that a request's headers show; None where it is none of ours.

        OpenAI's and Ollama's clients send it as a bearer's token, Anthropic's in a header of its
        own (https://docs.anthropic.com/en/api/overview#authentication), browsers as a password.
        Looked up by its hash: how long that takes tells nothing of any key.
        """
        authorization = fields.get(b"authorization")
        key = None if authorization is None else self._bearer(authorization)
        if key is None:  # a proxy in front may have written the other header
            key = self._opened_by(fields.get(b"x-api-key"))
        if key is not None and key.expires is not None and time() >= key.expires:
            return None
        return key

    def shown(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether a request shows any key, ours or not."""
        return b"authorization" in fields or b"x-api-key" in fields

    def opens_metrics(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether a request shows the metrics key."""
        given = _bearers(fields.get(b"authorization", b""))
        if given is None or self._metrics is None:
            return False
        return hmac.compare_digest(_digest(given), self._metrics)

    def is_admin(self, text: str) -> bool:
        """Whether a text is the admin key."""
        return _digest(text.encode(errors="replace")) in self._admin

    def _bearer(self, authorization: bytes) -> Key | None:
        key = self._known.get(authorization)
        if key is None:
            key = self._opened_by(_bearers(authorization))
            short = len(authorization) <= LONGEST_KNOWN
            if key is not None and short and len(self._known) < MOST_KNOWN:
                self._known[authorization] = key
        return key

    def _opened_by(self, given: bytes | None) -> Key | None:
        return None if given is None else self._keys.get(_digest(given))


def hash_of(key: str) -> str:
    """Write the hash of a key, if it is not written so already."""
    return key if key.startswith(HASH) else HASH + _digest(key.encode()).hex()


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()


def _bearers(authorization: bytes) -> bytes | None:
    """Read a bearer's token (RFC 6750 section 2.1), or a password (RFC 7617).

    Browsers send a password for an event stream, too, and no other header.
    """
    scheme, _, rest = authorization.partition(b" ")
    scheme, rest = scheme.lower(), rest.strip()
    if scheme == b"bearer":
        return rest
    if scheme == b"basic":
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(rest, validate=True).partition(b":")[2]
    return None
