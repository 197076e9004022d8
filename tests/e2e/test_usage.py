"""Who used how much: kept over restarts, for scripts and spreadsheets."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import bearer, chat, get

pytestmark = pytest.mark.anyio


async def told(balancer: Running, query: bytes = b"", *headers: bytes) -> bytes:
    response = await balancer.ask(get(b"/llmhealth-usage" + query, *headers))
    assert response.status == 200
    return response.body


async def test_what_a_key_used_is_told_after_a_restart(tmp_path: Path) -> None:
    host = ModelHost()
    admin = "admin-0123456789"
    settings = {
        "state_dir": tmp_path,
        "api_keys": '{"alice": "sk-alice-0123456789"}',
        "admin_key": admin,
        "ready": False,
    }
    async with host.running():
        for _ in range(2):
            async with balancing({"A": host}, **settings) as balancer:  # type: ignore[arg-type]
                request = chat().replace(
                    b"\r\n", b"\r\n" + bearer("sk-alice-0123456789") + b"\r\n", 1
                )
                assert (await balancer.ask(request)).status == 200
                found = json.loads(await told(balancer, b"", bearer(admin)))["usage"]

    one: dict[str, Any]
    [one] = found
    assert (one["client"], one["model"], one["requests"], one["failed"]) == ("alice", "m", 2, 0)
    assert (one["prompt_tokens"], one["generated_tokens"]) == (10, 2)


async def test_a_spreadsheet_takes_no_name_for_a_formula() -> None:
    host = ModelHost(models=["=1+1"])
    async with host.running(), balancing({"A": host}) as balancer:
        await balancer.ask(chat("=1+1"))
        rows = [*csv.DictReader((await told(balancer, b"?format=csv")).decode().splitlines())]

    assert [row["model"] for row in rows] == ["'=1+1"]


async def test_a_disk_that_is_full_costs_no_request(tmp_path: Path) -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}, state_dir=tmp_path) as balancer:
        (tmp_path / "usage.sqlite").mkdir()
        assert [(await balancer.ask(chat())).status for _ in range(3)] == [200] * 3
        assert json.loads(await told(balancer))["usage"] == []
        (tmp_path / "usage.sqlite").rmdir()
        [one] = json.loads(await told(balancer))["usage"]

    assert one["requests"] == 3
