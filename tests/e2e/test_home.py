"""What browsers see at the address itself: a server's page where there is one, else the monitor."""

import pytest

from tests.fakes.model_host import ModelHost, status
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, get, ok

pytestmark = pytest.mark.anyio

MONITOR = "/llmhealth-monitor"


async def show_page(visit: Visit, message: Message) -> bytes | None:
    return ok(b"<html>its own</html>", b"content-type: text/html")


async def browse(balancer: Running) -> Message:
    return await balancer.ask(get(b"/", b"accept: text/html,application/xhtml+xml;q=0.9"))


async def test_a_server_s_own_page_is_shown() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        host.probe = show_page
        response = await browse(balancer)

    assert (response.status, response.body) == (200, b"<html>its own</html>")


async def test_a_browser_is_led_to_the_monitor_where_the_server_has_no_page() -> None:
    host = ModelHost()

    async def refuse(visit: Visit, message: Message) -> bytes | None:
        return status(404)

    async with host.running(), balancing({"A": host}) as balancer:
        host.probe = refuse
        browser = await browse(balancer)
        program = await balancer.ask(get(b"/"))

    assert (browser.status, browser["location"]) == (302, MONITOR)
    assert program.status == 404


async def test_a_browser_is_led_to_the_monitor_where_the_server_is_down() -> None:
    down = {"addr": f"http://127.0.0.1:{free_port()}"}
    async with balancing({"A": down}, ready=False) as balancer:
        response = await browse(balancer)

    assert (response.status, response["location"]) == (302, MONITOR)


async def test_a_browser_without_a_key_is_led_to_the_monitor_and_its_login() -> None:
    host = ModelHost()
    keys = '{"alice": "sk-of-alice-which-is-long"}'
    settings = {"api_keys": keys, "admin_key": "an-admin-key-that-is-long"}
    async with host.running(), balancing({"A": host}, ready=False, **settings) as balancer:  # type: ignore[arg-type]
        response = await browse(balancer)

    assert (response.status, response["location"]) == (302, MONITOR)


async def test_the_monitor_can_be_what_everybody_sees() -> None:
    host = ModelHost(probe=show_page)
    async with host.running(), balancing({"A": host}, ready=False, home="monitor") as balancer:
        responses = [await browse(balancer), await balancer.ask(get(b"/"))]

    assert [(r.status, r["location"]) for r in responses] == [(302, MONITOR)] * 2
