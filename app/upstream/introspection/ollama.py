"""Ollama: https://github.com/ollama/ollama/blob/main/docs/api.md#list-running-models."""

from app.routing.kind import Kind
from app.routing.observations import SelfReport
from app.upstream.introspection.introspector import MODEL, Introspector, ModelOrder
from app.upstream.introspection.pages import Get, Page, contexts, members, objects, required, texts


class Ollama(Introspector):
    """Tells which models are in memory."""

    # Its API for responses says 0 whatever was cached, and its others nothing.
    kind = Kind("ollama", asks_usage=True, denies_cached_tokens=True, reloads=True)
    path = "/api/ps"
    # https://github.com/ollama/ollama/blob/main/docs/api.md#load-a-model
    load = ModelOrder("POST", "/api/generate", {"model": MODEL})
    unload = ModelOrder("POST", "/api/generate", {"model": MODEL, "keep_alive": 0})

    @staticmethod
    def fits(page: Page) -> bool:
        return isinstance(members(page).get("models"), list)

    async def report(self, get: Get, *, in_use: bool) -> SelfReport:
        found = objects(required(await get(self.path)), "models")
        return SelfReport(
            self.server,
            self.kind,
            loaded=texts(found, "name") | texts(found, "model"),
            contexts=contexts((model.get("name"), model.get("context_length")) for model in found),
        )
