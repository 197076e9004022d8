"""vLLM: https://docs.vllm.ai/en/latest/usage/metrics.html."""

import re
from typing import Final

from app.routing.kind import Kind
from app.routing.observations import SelfReport
from app.upstream.introspection.introspector import Introspector
from app.upstream.introspection.pages import Get, Page, total

_ACTIVE: Final = re.compile(
    rb"^vllm:num_requests_(?:running|waiting)(?:\{[^\n]*\})? (\S+)", re.MULTILINE
)


class VLLM(Introspector):
    """Tells how many requests are inside, at work or waiting."""

    # Its blocks hold as many tokens at the most.
    kind = Kind("vllm", cache_block=128, asks_usage=True)
    path = "/metrics"

    @staticmethod
    def fits(page: Page) -> bool:
        return page[0] == 200 and b"vllm:" in page[1]

    async def report(self, get: Get, *, in_use: bool) -> SelfReport:
        status, _ = await get("/health")
        if status >= 500:  # its engine has not begun yet, or died
            return SelfReport(self.server, self.kind, loading=True)
        return SelfReport(self.server, self.kind, active=total(await get(self.path), _ACTIVE))
