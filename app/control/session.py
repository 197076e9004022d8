"""The session of a browser whose user has logged in."""

import hmac
from collections.abc import Mapping
from hashlib import sha256
from time import time
from urllib.parse import urlsplit

from app.keys.key_ring import SESSION

COOKIE = SESSION.decode()

ELSEWHERE = "this was asked for by a page from elsewhere"

LIFETIME = 7 * 24 * 3600
"""How long a session lasts, in seconds."""


class Sessions:
    """Writes and reads session cookies; they are signed, so that nothing need be remembered.

    A cookie opens until its time is over, or the admin key is another. There are no sessions
    where there is no `admin_key`.
    """

    def __init__(self, admin_key: str | None) -> None:
        self._key = (
            None if admin_key is None else sha256(b"session\0" + admin_key.encode()).digest()
        )

    def cookie(self, *, secure: bool) -> str:
        """Write the header that begins a session (RFC 6265 section 4.1)."""
        return _set_cookie(self._signed(int(time()) + LIFETIME), LIFETIME, secure=secure)

    @staticmethod
    def farewell(*, secure: bool) -> str:
        """Write the header that ends a session."""
        return _set_cookie("", 0, secure=secure)

    def opens(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request belongs to a session."""
        cookies = headers.get(b"cookie")
        if cookies is None or self._key is None:
            return False
        for cookie in cookies.decode("latin-1").split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == COOKIE and self._is_open(value):
                return True
        return False

    def _is_open(self, value: str) -> bool:
        end = value.partition(".")[0]
        if not (end.isascii() and end.isdigit() and len(end) < 20 and int(end) > time()):
            return False
        return hmac.compare_digest(value.encode("latin-1"), self._signed(int(end)).encode())

    def _signed(self, end: int) -> str:
        assert self._key is not None, "without an admin key nobody logs in"
        return f"{end}.{hmac.new(self._key, str(end).encode(), sha256).hexdigest()}"


def _set_cookie(value: str, lifetime: int, *, secure: bool) -> str:
    flags = "; Secure" if secure else ""
    return f"{COOKIE}={value}; Max-Age={lifetime}; Path=/; HttpOnly; SameSite=Strict{flags}"


def is_from_here(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request was made by a page of ours: browsers say where a page is from.

    https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header, RFC 6454 section 7
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site == b"same-origin"
    origin = headers.get(b"origin")
    return origin is None or urlsplit(origin).netloc == headers.get(b"host")
