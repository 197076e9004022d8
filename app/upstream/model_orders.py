"""Telling a server to load or unload a model, in its kind's own words."""

import json
from typing import Final, Literal, NamedTuple
from urllib.parse import quote

from app.upstream.errors import OutOfSockets, UpstreamError
from app.upstream.http import Client
from app.upstream.introspection.introspection import KINDS
from app.upstream.introspection.introspector import MODEL, ModelOrder
from app.upstream.pool import Pool

Action = Literal["load", "unload"]

CONNECT_SECONDS: Final = 5.0

LONGEST: Final = 600.0
"""Seconds that a model may take to be loaded: some servers respond when it is."""


class Outcome(NamedTuple):
    """What came of an order."""

    status: int
    """That of the server's response; 0 where there is none."""
    error: str
    """What went wrong, if anything did."""


def understands(kind: str) -> bool:
    """Whether servers of a kind load and unload models when they are told to."""
    return kind in KINDS and KINDS[kind].load is not None


async def give(pool: Pool, kind: str, action: Action, model: str) -> Outcome:
    """Have a server load or unload a model, which is called as it is there."""
    order: ModelOrder | None = getattr(KINDS[kind], action)
    assert order is not None
    client = Client(pool, connect_timeout=CONNECT_SECONDS, silence=LONGEST)
    path = order.path.replace(MODEL, quote(model, safe=""))
    body = {key: model if value == MODEL else value for key, value in order.body.items()}
    try:
        status, _ = await client.send(
            order.method,
            path,
            json.dumps(body).encode() if body else b"",
            {"content-type": "application/json"} if body else {},
        )
    except (UpstreamError, OutOfSockets) as error:
        return Outcome(0, str(error))
    return Outcome(status, "" if status < 400 else f"it responds with {status}")
