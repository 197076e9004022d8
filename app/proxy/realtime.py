"""WebSockets that name their model in the query.

https://platform.openai.com/docs/guides/realtime-websocket
"""

from urllib.parse import parse_qsl, quote, unquote_to_bytes


def model_of(query: bytes) -> str:
    """Return the model that a query names; empty for none."""
    pairs = parse_qsl(query.decode("latin-1"), encoding="utf-8", errors="replace")
    return next((value for name, value in pairs if name == "model"), "")


def with_model(query: bytes, model: str) -> bytes:
    """Write another model into a query, and leave the rest as it is."""
    return b"&".join(
        b"model=" + quote(model, safe="").encode() if _is_model(pair) else pair
        for pair in query.split(b"&")
    )


def _is_model(pair: bytes) -> bool:
    return unquote_to_bytes(pair.partition(b"=")[0].replace(b"+", b" ")) == b"model"
