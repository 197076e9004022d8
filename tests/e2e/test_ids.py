"""What a server has made is asked of that server again."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import balancing
from tests.fakes.sockets import SSE, Message, Visit, chunk, get, ok, post

pytestmark = pytest.mark.anyio

RESPONSES = b"/v1/responses"


class Stateful:
    """A server that keeps what it has made, and gives ids of its own."""

    def __init__(self, name: str, both: asyncio.Barrier | None = None) -> None:
        """`both` holds the first response until that of another server is there as well."""
        self.name = name
        self.both = both
        self.host = ModelHost(self._handle, probe=self._probe)
        self.asked_for: list[str] = []
        self.count = 0

    async def _handle(self, visit: Visit, message: Message) -> bytes | None:
        path = message.start.split()[1]
        self.asked_for.append(path)
        self.count += 1
        if self.both is not None and self.count == 1:
            await self.both.wait()
        made = {"id": f"{path.split('/')[2][:4]}_{self.name}{self.count}", "object": "x"}
        made["id"] = made["id"].replace("batc_", "batch_")
        if b'"stream": true' in message.body:
            event = json.dumps({"type": "response.created", "response": made})
            done = json.dumps({"type": "response.completed", "response": made})
            return (
                SSE
                + chunk(f"event: response.created\ndata: {event}\n\n".encode())
                + chunk(f"event: response.completed\ndata: {done}\n\n".encode())
                + b"0\r\n\r\n"
            )
        return ok(json.dumps(made).encode(), b"content-type: application/json")

    async def _probe(self, visit: Visit, message: Message) -> bytes | None:
        path = message.start.split()[1]
        if path.startswith(("/v1/responses/", "/v1/files/", "/v1/batches/")):
            self.asked_for.append(path)
            return ok(json.dumps({"from": self.name}).encode())
        return self.host.list_models(message)


def asking(**more: object) -> bytes:
    return post(json.dumps({"model": "m", "input": "hi", **more}).encode(), RESPONSES)


def id_of(body: bytes) -> str:
    return body.partition(b'"id": "')[2].partition(b'"')[0].decode()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_continued_and_asked_for_where_it_was_made(stream: bool) -> None:
    both = asyncio.Barrier(2)
    first, second = Stateful("a", both), Stateful("b", both)
    async with first.host.running(), second.host.running():
        servers = {"A": first.host.limited(1), "B": second.host.limited(1)}
        async with balancing(servers, routed_paths="all") as balancer:
            made = await asyncio.gather(*(balancer.ask(asking(stream=stream)) for _ in "ab"))
            owners = {id_of(one.body): one["x-balancer-server"] for one in made}
            for name, server in owners.items():
                continued = await balancer.ask(asking(previous_response_id=name))
                assert continued["x-balancer-server"] == server
                found = await balancer.get(f"/v1/responses/{name}")
                assert json.loads(found.body) == {"from": server.lower()}
                await balancer.ask(get(f"/v1/responses/{name}".encode(), method=b"DELETE"))

    assert {*owners.values()} == {"A", "B"}
    deleted = {path for one in (first, second) for path in one.asked_for if "/resp_" in path}
    assert deleted == {f"/v1/responses/{name}" for name in owners}


async def test_a_response_whose_server_is_gone_or_unknown_is_continued_anywhere() -> None:
    server = Stateful("a")
    async with server.host.running(), balancing({"A": server.host}, routed_paths="all") as balancer:
        unknown = await balancer.ask(asking(previous_response_id="resp_unknown"))
        odd = await balancer.ask(asking(previous_response_id=7))

    assert (unknown.status, odd.status) == (200, 200)


async def test_files_and_batches_stay_where_they_were_made(tmp_path: Path) -> None:
    first, second = Stateful("a"), Stateful("b")
    fallback = tmp_path / "BALANCER_FALLBACK_SERVER"
    fallback.write_text("A")
    async with first.host.running(), second.host.running():
        servers = {"A": first.host, "B": second.host}
        async with balancing(servers, folder=tmp_path) as balancer:
            paths = []
            for kind in ("files", "batches"):
                made = await balancer.ask(post(b"{}", f"/v1/{kind}".encode()))
                paths.append(f"/v1/{kind}/{id_of(made.body)}")
            fallback.write_text("B")
            await balancer.until(lambda: balancer.events("settings.taken_in"))
            found = [json.loads((await balancer.get(path)).body) for path in paths]
            unknown = json.loads((await balancer.get("/v1/files/file-unknown")).body)

    assert found == [{"from": "a"}, {"from": "a"}]
    assert unknown == {"from": "b"}
