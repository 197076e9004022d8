"""LM Studio: https://lmstudio.ai/docs/developer/rest/endpoints, "GET /api/v0/models"."""

from dataclasses import replace

from app.routing.kind import Kind
from app.routing.observations import SelfReport
from app.upstream.introspection.introspector import Introspector
from app.upstream.introspection.pages import Get, Page, contexts, json_of, objects, required


class LMStudio(Introspector):
    """Tells which models are in memory, or on their way there."""

    kind = Kind("lmstudio", asks_usage=True)
    path = "/api/v0/models"

    @staticmethod
    def fits(page: Page) -> bool:
        return any("state" in model for model in objects(json_of(page), "data"))

    async def report(self, get: Get, *, in_use: bool) -> SelfReport:
        found = objects(required(await get(self.path)), "data")
        report = self.by_state(found, "id", loaded="loaded", starting="loading")
        told = contexts((model.get("id"), model.get("loaded_context_length")) for model in found)
        return replace(report, contexts=told)
