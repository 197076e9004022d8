"""Which pages may ask for models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.proxy.cors import Cors


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (b"http://localhost", True),
        (b"http://LOCALHOST:3000", True),
        (b"https://127.0.0.1:8080", True),
        (b"http://[::1]:3000", True),
        (b"http://tauri.localhost", True),
        (b"http://192.168.1.5:3000", True),
        (b"http://192.168.1.5:18000", True),
        (b"app://obsidian.md", True),
        (b"vscode-webview://1a2b", True),
        (b"tauri://localhost", True),
        (b"http://192.168.1.6:3000", False),
        (b"https://evil.example", False),
        (b"https://localhost.evil.example", False),
        (b"https://evil.example#localhost", False),
        (b"https://localhost@evil.example", False),
        (b"http://192.168.1.5.evil.example", False),
        (b"null", False),
        (b"", False),
        (b"http://[", False),
        (b"\xff\xfe", False),
    ],
)
def test_without_a_word_pages_of_this_machine_and_applications_may(
    origin: bytes, allowed: bool
) -> None:
    assert Cors().allows(origin, b"192.168.1.5:18000") is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (b"https://chat.example", True),
        (b"https://CHAT.example", True),
        (b"http://chat.example", False),
        (b"https://chat.example:8443", False),
        (b"https://a.team.example", True),
        (b"https://team.example", False),
        (b"https://.team.example.evil", False),
        (b"http://localhost:3000", False),
        (b"http://balancer:18000", True),
        (b"null", False),
    ],
)
def test_the_sites_that_are_named_may_and_no_others_but_our_own(
    origin: bytes, allowed: bool
) -> None:
    cors = Cors(["https://chat.example", "https://*.team.example"])

    assert cors.allows(origin, b"balancer:18000") is allowed


@given(st.binary(), st.binary())
def test_no_origin_breaks_anything(origin: bytes, host: bytes) -> None:
    assert Cors().allows(origin, host) in (True, False)
    assert Cors(["https://*.a"]).allows(origin, host) in (True, False)
    assert Cors(["*"]).allows(origin, host)
