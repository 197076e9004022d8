"""Byte scripts: what a client sends, and what the server in front of it answers."""

from dataclasses import dataclass

from tests.fakes.sockets import SSE, chat, chunk, get, ok, post

CHAT = b"/v1/chat/completions"
MODEL = b'{"model":"m"}'
UPGRADE = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABk")
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
CLOSED = b"HTTP/1.1 200 OK\r\n\r\nto the end"


@dataclass(frozen=True)
class Case:
    """What is sent over one connection, and the server's response to each request."""

    sent: bytes
    response: bytes = b""
    closes: bool = False
    """Whether the server closes after its response."""


def _raw(method: bytes, path: bytes, rest: bytes, version: bytes = b"1.1") -> bytes:
    return method + b" " + path + b" HTTP/" + version + b"\r\nhost: balancer\r\n" + rest


REQUESTS: dict[str, bytes] = {
    "chat": chat(),
    "stream": chat(stream=True),
    "long chat": chat(messages=[{"role": "user", "content": "Tell me a story. " * 500}]),
    "not json": post(b"not json"),
    "no model": post(b"{}"),
    "unrouted": post(b"{}", b"/v1/embeddings"),
    "get": get(b"/x?a=b%20"),
    "head": get(b"/x", method=b"HEAD"),
    "head of chat": get(CHAT, method=b"HEAD"),
    "options": get(b"/x", method=b"OPTIONS"),
    "odd method": get(b"/x", method=b"PROPFIND"),
    "upload": post(b"x" * 5_000, b"/v1/files"),
    "upload in chunks": _raw(b"POST", b"/v1/files", CHUNKED + chunk(b"first") + chunk(b"second"))
    + b"0\r\nx-trailer: 1\r\n\r\n",
    "chat in chunks": _raw(b"POST", CHAT, CHUNKED + chunk(MODEL[:5]) + chunk(MODEL[5:]))
    + b"0\r\nauthorization: forged\r\n\r\n",
    "pipelined": chat() * 3 + get(b"/x") + post(b"y", b"/y") + chat(stream=True),
    "closing": post(MODEL, CHAT, b"connection: close"),
    "closing get": get(b"/x", b"connection: close"),
    "http 1.0": _raw(b"GET", b"/x", b"\r\n", b"1.0"),
    "http 1.0, kept": _raw(b"GET", b"/x", b"connection: keep-alive\r\n\r\n", b"1.0"),
    "chat by http 1.0": _raw(
        b"POST", CHAT, b"content-length: %d\r\n\r\n" % len(MODEL) + MODEL, b"1.0"
    ),
    "expecting": post(MODEL, CHAT, b"expect: 100-continue"),
    "upload, expecting": post(b"x" * 100, b"/v1/files", b"expect: 100-continue"),
    "upgrading": post(MODEL, CHAT, *UPGRADE) + get(b"/next"),
    "upgrading get": get(b"/x", *UPGRADE) * 2 + get(b"/next"),
    "upgrading in chunks": _raw(b"POST", CHAT, b"\r\n".join([*UPGRADE, b""]) + CHUNKED)
    + chunk(MODEL)
    + b"0\r\n\r\n"
    + get(b"/next"),
    "absolute": get(b"http://evil.example:99/x?y=1"),
    "odd path": get(b"/v1/%2e%2e/slots/caf%C3%A9"),
    "ours": get(b"/llmhealth"),
    "ours by another method": post(b"{}", b"/llmhealth"),
    "ours pipelined": get(b"/llmhealth") * 2 + chat() + get(b"/llmhealth"),
    "ours that is not there": get(b"/llmhealth-nothing"),
    "icon": get(b"/favicon.ico"),
    "explained": post(MODEL, b"/llmhealth-explain"),
    "long head": b"GET /x HTTP/1.1\r\nx: " + b"a" * 200_000,
    "two lengths": _raw(b"POST", b"/x", b"content-length: 1\r\ncontent-length: 2\r\n\r\nab"),
    "length and chunks": _raw(b"POST", b"/x", b"content-length: 1\r\n" + CHUNKED + b"0\r\n\r\n"),
    "bad chunks": _raw(b"POST", CHAT, CHUNKED + b"xyz\r\n"),
    "connect": b"CONNECT example.com:443 HTTP/1.1\r\nhost: b\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "garbage behind": chat() + b"garbage\r\n\r\n",
    "too long": post(b"x" * 100, CHAT).replace(b"length: 100", b"length: 999999999"),
}
"""Requests that are told apart by how a proxy treats them."""

RESPONSES: dict[str, bytes] = {
    "whole": ok(b'{"a":1}', b"content-type: application/json"),
    "in chunks": b"HTTP/1.1 200 OK\r\n" + CHUNKED + chunk(b"a") + chunk(b"b") + chunk(b""),
    "stream": SSE + chunk(b"data: 1\n\n") + chunk(b"data: 2\n\n") + chunk(b""),
    "empty": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\netag: x\r\ncontent-length: 5\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
    "hints": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + ok(b"real"),
    "busy": b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\n{}",
    "mistake": b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\n{}",
    "nominated": ok(b"", b"connection: x-inner", b"x-inner: 1", b"x-outer: 2"),
    "garbage": b"SSH-2.0-OpenSSH\r\n",
    "odd status": b"HTTP/1.1 999 Odd\r\n\r\n",
}

CLOSING: dict[str, bytes] = {
    "to the end": CLOSED,
    "nothing": b"",
    "cut off": b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf",
    "cut stream": SSE + chunk(b"data: 1\n\n"),
}
"""Responses after which the server closes."""


def cases() -> dict[str, Case]:
    """Pair every request with a plain response, and the common ones with every response."""
    found = {name: Case(sent, RESPONSES["whole"]) for name, sent in REQUESTS.items()}
    for request in ("chat", "stream", "get", "head", "upload", "pipelined", "chat by http 1.0"):
        for name, response in RESPONSES.items():
            found[f"{request}: {name}"] = Case(REQUESTS[request], response)
        for name, response in CLOSING.items():
            found[f"{request}: {name}"] = Case(REQUESTS[request], response, closes=True)
    return found
