"""Model servers that are found by asking: of this machine, or of a network."""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Final

from app.routing.observations import SelfReport
from app.settings.listening import bracketed
from app.upstream.errors import UpstreamError
from app.upstream.http import Client
from app.upstream.introspection.introspection import PLAIN, Introspection
from app.upstream.introspection.pages import Page, Silent
from app.upstream.model_list import model_list
from app.upstream.pool import Pool

PORTS: Final = {
    1234: "LM Studio",
    8000: "vLLM",
    8080: "llama.cpp, llama-swap",
    8081: "llama.cpp",
    11434: "Ollama",
    30000: "SGLang",
}
"""Where model servers listen if nobody says otherwise, and which ones."""

CONNECT_SECONDS: Final = 1.0
READ_SECONDS: Final = 2.0


class ModelServer:
    """One place where a model server may be."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.kind = PLAIN
        """What kind of model server it is."""
        self.slots: int | None = None
        """How many requests it works on at once; None where it does not tell."""
        self.models: list[str] | None = None
        """The models that it lists; None while there is no model server."""
        self.address = f"http://{bracketed(host)}:{port}"
        self._pool = Pool(self.address)
        self._client = Client(self._pool, connect_timeout=CONNECT_SECONDS, silence=READ_SECONDS)
        self._introspection = Introspection(self.address, "auto", time.monotonic)

    async def look(self) -> bool:
        """Ask what is there, and return whether it is a model server."""
        try:
            page = await self._client.get("/v1/models")
        except UpstreamError:
            self._introspection.forget()
            return False
        report = self._introspection.loads(page)
        if report is None:
            listed = model_list(page[1]) if page[0] == 200 else None
            if listed is None:
                return False
            self.models = [*listed]
            with contextlib.suppress(Silent):
                report = await self._introspection.report(self._get)
        self._note(report)
        return True

    def close(self) -> None:
        """Close the connections to it."""
        self._pool.close()

    async def _get(self, path: str) -> Page:
        try:
            return await self._client.get(path)
        except UpstreamError as error:
            raise Silent from error

    def _note(self, report: SelfReport | None) -> None:
        self.models = self.models or []
        if report is not None:
            self.kind = report.kind.name
            self.slots = report.slots or self.slots


async def found(places: Iterable[ModelServer]) -> list[ModelServer]:
    """Look at all places at once, and return those where there is a model server."""
    places = [*places]
    there = await asyncio.gather(*(place.look() for place in places))
    return [place for place, is_there in zip(places, there, strict=True) if is_there]
