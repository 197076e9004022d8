"""A server that has OpenAI's API, and tells nothing else of itself."""

from app.routing.kind import Kind
from app.upstream.introspection.introspector import Introspector
from app.upstream.introspection.pages import Get, Page, members


class OpenAI(Introspector):
    """Tells its models alone, as another balancer does.

    That one's other paths lead to one of many servers, whose slots are its own matter.
    """

    kind = Kind("openai")
    path = "/llmhealth-snapshot"

    @staticmethod
    def fits(page: Page) -> bool:
        return "backends" in members(page)

    async def report(self, get: Get, *, in_use: bool) -> None:
        return None
