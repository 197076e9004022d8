"""Where a client says which conversation a request belongs to, that tells its requests apart."""

import json

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import post

pytestmark = pytest.mark.anyio

PATH = b"/v1/chat/completions"
SAID = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


async def ask(balancer: Running, *headers: bytes, **more: object) -> tuple[str, str]:
    """Ask, and return which server responds, and why that one."""
    response = await balancer.ask(post(json.dumps({**SAID, **more}).encode(), PATH, *headers))
    return response["x-balancer-server"], response["x-balancer-reason"]


async def test_short_prompts_stay_with_their_conversation_however_the_client_names_it() -> None:
    first, second = ModelHost(), ModelHost()
    async with (
        first.running(),
        second.running(),
        balancing({"A": first, "B": second}) as balancer,
    ):
        for header in (
            b"x-openwebui-chat-id",
            b"x-claude-code-session-id",
            b"session-id",
            b"x-session-id",
            b"x-openwebui-user-id",
        ):
            one, two = (header + b": " + header + end for end in (b" one", b" two"))
            where, _ = await ask(balancer, one)
            assert await ask(balancer, one) == (where, "sticky")
            assert (await ask(balancer, two))[1] != "sticky"
        for member in ("prompt_cache_key", "user"):
            where, _ = await ask(balancer, **{member: f"{member} one"})
            assert await ask(balancer, **{member: f"{member} one"}) == (where, "sticky")
            assert (await ask(balancer, **{member: f"{member} two"}))[1] != "sticky"
        await balancer.until(lambda: len(balancer.events("request")) == 21)
        sessions = [line["session"] for line in balancer.events("request")]

    assert sessions[3:6] == [
        "x-claude-code-session-id one",
        "x-claude-code-session-id one",
        "x-claude-code-session-id two",
    ]
    assert sessions[-1] == "user two"


async def test_what_could_not_be_logged_is_no_name_of_a_conversation() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        await ask(balancer, user="a\nb", prompt_cache_key=7)
        await balancer.until(lambda: balancer.events("request"))
        (line,) = balancer.events("request")

    assert "session" not in line
