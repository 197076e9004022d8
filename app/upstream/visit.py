"""A visit to a server: what it is, what it has, and how to mend what is wrong."""

import contextlib
import time
from dataclasses import dataclass, field
from typing import Final

from app.routing.fleet import Server
from app.routing.observations import SelfReport
from app.upstream.dialler import NO_TLS, REFUSED, UNKNOWN_NAME
from app.upstream.errors import (
    Broken,
    Garbled,
    OutOfSockets,
    TimedOut,
    Unanswered,
    Unreachable,
    UpstreamError,
)
from app.upstream.http import Client
from app.upstream.introspection.introspection import Introspection
from app.upstream.introspection.pages import Page, Silent
from app.upstream.model_list import model_list
from app.upstream.pool import Pool

SECONDS: Final = 5.0
"""How long a server may take to connect, and to say something."""

HINTS: Final[dict[type[Exception], str]] = {
    Unanswered: "Is the machine on, and does its firewall let this port through?",
    Unreachable: "Does the server run, with this address and port? One that listens on 127.0.0.1 "
    "is reached by its own machine alone: `llama-server --host 0.0.0.0`, `OLLAMA_HOST=0.0.0.0`.",
    TimedOut: "It took the connection and says nothing: is it stuck, or is the port another's?",
    Broken: "It closed the connection: is the port another program's, or must it be https://?",
    Garbled: "What came is no HTTP: is the port another program's, or must it be https://?",
}
"""What helps, by what went wrong; the first that fits."""


BY_WORDS: Final[dict[tuple[str, ...], str]] = {
    (UNKNOWN_NAME,): "Is the name right? The machine's IP address works without a name server.",
    (NO_TLS,): 'Is it http:// there? A certificate of your own goes into "ca_file".',
}

AGENT: Final = (
    "Does an agent run there (`llama-balancer` without servers, with BALANCER_HOST=0.0.0.0)? "
    'Without "health_port" none is needed.'
)


@dataclass
class Visit:
    """What a visit has shown."""

    models: list[str] | None = None
    """The models that it lists; None where it lists none."""
    report: SelfReport | None = None
    """What it tells of itself."""
    seconds: float = 0.0
    """How long its model list took."""
    faults: list[str] = field(default_factory=list)
    """What is wrong, each with what helps."""


async def visit(server: Server, pool: Pool) -> Visit:
    """Ask a server what it is and has, and its agent how the GPU is."""
    found = Visit()
    client = Client(pool, connect_timeout=SECONDS, silence=SECONDS)
    begun = time.monotonic()
    try:
        page = await client.get("/v1/models")
    except (UpstreamError, OutOfSockets) as error:
        found.faults.append(f"{server.model_base}: {error}. {_hint(error)}".strip())
    else:
        found.seconds = time.monotonic() - begun
        await _take_in(found, server, client, page)
    if server.health_base is not None:
        await _visit_agent(found, server, server.health_base)
    return found


async def _take_in(found: Visit, server: Server, client: Client, page: Page) -> None:
    """Take in a model list, and what else the server tells."""
    introspection = Introspection(server.name, server.kind, time.monotonic)
    found.report = introspection.loads(page)
    if found.report is not None:
        return
    status, body = page
    listed = model_list(body) if status == 200 else None
    if listed is not None:
        found.models = sorted(server.names_here(listed))
    elif (fault := _fault(server, status)) is not None:
        found.faults.append(fault)

    async def get(path: str) -> Page:
        try:
            return await client.get(path)
        except (UpstreamError, OutOfSockets) as error:
            raise Silent from error

    with contextlib.suppress(Silent):
        found.report = await introspection.report(get)


def _fault(server: Server, status: int) -> str | None:
    """Say what is wrong where there is no model list; some servers have none to show."""
    there = f"{server.model_base}/v1/models"
    if status in (401, 403):
        return f'{there}: it wants a key ({status}). Give the server its "api_key".'
    if status == 404:
        return (
            f"{there}: it has no such path (404). Is this the port of its API? A path before "
            '/v1 belongs to "addr".'
        )
    if status >= 500:
        return f"{there}: it fails ({status}). Its own log tells why."
    return f"{there}: it lists no models as OpenAI's API does ({status})."


async def _visit_agent(found: Visit, server: Server, address: str) -> None:
    """See whether the agent responds."""
    pool = Pool(address, address=server.address)
    there = f"{address}/llmhealth"
    try:
        client = Client(pool, connect_timeout=SECONDS, silence=SECONDS)
        status, _ = await client.get("/llmhealth")
        if status != 200:
            found.faults.append(f"{there}: it responds with {status}. Is this the agent's port?")
    except (UpstreamError, OutOfSockets) as error:
        hint = AGENT if type(error) is Unreachable and error.args == (REFUSED,) else _hint(error)
        found.faults.append(f"{there}: {error}. {hint}".strip())
    finally:
        pool.close()


def _hint(error: Exception) -> str:
    if error.args in BY_WORDS:
        return BY_WORDS[error.args]
    return next((hint for kind, hint in HINTS.items() if isinstance(error, kind)), "")
