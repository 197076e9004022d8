"""Who used which model how much, as JSON and for spreadsheets."""

import csv
import io
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from app.telemetry.usage_history import KEPT_DAYS, DayUsed, UsageHistory

HEADS = (
    *("day", "client", "user", "model", "requests", "failed"),
    *("prompt_tokens", "cached_tokens", "generated_tokens"),
)


def routes(history: UsageHistory, flush: Callable[[], None]) -> APIRouter:
    """Build the route; `flush` has requests counted that have just ended."""
    router = APIRouter()

    @router.get("/llmhealth-usage")
    async def usage(
        days: Annotated[int, Query(ge=1, le=KEPT_DAYS)] = 30,
        format: Literal["json", "csv"] = "json",  # noqa: A002
    ) -> Response:
        """Tell requests and tokens of the last `days` by day, key or address, user and model."""
        flush()
        rows = await history.since(days)
        if format == "csv":
            return Response(_csv(rows), media_type="text/csv; charset=utf-8")
        return JSONResponse({"usage": [dict(zip(HEADS, row, strict=True)) for row in rows]})

    return router


def _csv(rows: list[DayUsed]) -> str:
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(HEADS)
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return written.getvalue()


def _harmless(cell: str | int) -> str | int:
    """Keep a spreadsheet from taking a name for a formula: clients choose some of them."""
    starts = isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{cell}" if starts else cell
