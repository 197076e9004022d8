"""The monitor's routes: the page's policy, and the stream."""

import asyncio
import base64
import hashlib
import json
import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.control.dashboard import page
from app.control.dashboard.page import Feed
from app.control.requests import Requests
from app.telemetry.recent_requests import RecentRequests
from tests.fakes.records import record

pytestmark = pytest.mark.anyio

NONE = Requests(RecentRequests(), ())


async def get(method: str = "GET") -> httpx.Response:
    control = FastAPI()
    control.include_router(page.routes(dict, dict, NONE, asyncio.Event()))
    transport = httpx.ASGITransport(app=control)
    async with httpx.AsyncClient(transport=transport, base_url="http://balancer") as client:
        return await client.request(method, "/llmhealth-monitor")


async def test_the_policy_lets_only_the_pages_own_script_and_style_run() -> None:
    answer = await get()

    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        [text] = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert " style=" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = (await get()).text

    assert re.findall(r"""(?:src|href)=["'](?!data:|/llmhealth)""", page) == []
    assert (await get("HEAD")).status_code == 200


class State:
    def __init__(self, *, broken: bool = False) -> None:
        self.taken = 0
        self.broken = broken

    def snapshot(self) -> dict[str, Any]:
        self.taken += 1
        if self.broken:
            raise ValueError("a fault of ours")
        return {"number": self.taken}


async def test_each_event_holds_snapshot_and_statistics() -> None:
    feed = Feed(State().snapshot, lambda: {"total_requests": 3}, NONE, asyncio.Event(), 60.0)

    event = await anext(feed.events())

    assert event.endswith(b"\n\n")
    told = json.loads(event.removeprefix(b"data: "))
    assert told == {
        "snapshot": {"number": 1},
        "stats": {"total_requests": 3},
        "requests": {"under_way": [], "ended": []},
    }


async def test_the_state_is_read_once_for_all_who_watch() -> None:
    state = State()
    feed = Feed(state.snapshot, dict, NONE, asyncio.Event(), 60.0)

    events = [await anext(feed.events()) for _ in range(5)]

    assert state.taken == 1
    assert len(set(events)) == 1


async def test_after_the_first_event_only_what_changed_is_told() -> None:
    state = {"number": 1, "name": "a"}
    feed = Feed(lambda: dict(state), lambda: {"total_requests": 3}, NONE, asyncio.Event(), 0.001)
    stream = feed.events()
    await anext(stream)

    state["number"] = 2
    told: list[dict[str, Any]] = []
    while not any(one["snapshot"] for one in told):
        told.append(json.loads((await anext(stream)).removeprefix(b"data: ")))

    assert told[-1] == {"snapshot": {"number": 2}, "stats": {}, "requests": {"ended": []}}
    late = json.loads((await anext(feed.events())).removeprefix(b"data: "))
    assert late["snapshot"] == {"number": 2, "name": "a"}
    assert late["stats"] == {"total_requests": 3}


async def test_each_page_is_told_of_a_request_once() -> None:
    recent = RecentRequests()
    stream = Feed(dict, dict, Requests(recent, ()), asyncio.Event(), 0.001).events()

    told: list[str] = []
    for number in range(4):
        recent.finished(record(number, model="m"))
        ended: list[dict[str, Any]] = []
        while not ended:
            event = json.loads((await anext(stream)).removeprefix(b"data: "))
            ended = event["requests"]["ended"]
        told += [one["id"] for one in ended]

    assert told == ["0", "1", "2", "3"]


async def test_the_streams_end_when_the_server_stops() -> None:
    stopping = asyncio.Event()
    stream = Feed(State().snapshot, dict, NONE, stopping, 60.0).events()
    await anext(stream)

    waiting = asyncio.ensure_future(anext(stream, None))
    await asyncio.sleep(0)
    stopping.set()

    assert await waiting is None


async def test_a_fault_in_the_snapshot_does_not_end_the_stream() -> None:
    state = State(broken=True)
    stream = Feed(state.snapshot, dict, NONE, asyncio.Event(), 0.001).events()

    assert (await anext(stream)).startswith(b":")
    state.broken = False
    while not (event := await anext(stream)).startswith(b"data:"):
        pass
    assert b"number" in event
