"""llama-swap: https://github.com/mostlygeek/llama-swap, "GET /running"."""

from app.routing.kind import Kind
from app.routing.observations import SelfReport
from app.upstream.introspection.introspector import MODEL, Introspector, ModelOrder
from app.upstream.introspection.pages import Get, Page, members, objects, required


class LlamaSwap(Introspector):
    """Tells which models are in memory, or on their way there."""

    kind = Kind("llama-swap", swaps=True)
    path = "/running"
    load = ModelOrder("GET", f"/upstream/{MODEL}/health", {})
    unload = ModelOrder("POST", f"/api/models/unload/{MODEL}", {})

    @staticmethod
    def fits(page: Page) -> bool:
        return isinstance(members(page).get("running"), list)

    async def report(self, get: Get, *, in_use: bool) -> SelfReport:
        found = objects(required(await get(self.path)), "running")
        return self.by_state(found, "model", loaded="ready", starting="starting")
