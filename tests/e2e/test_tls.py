"""Clients may connect by TLS, and a certificate is renewed without a restart."""

import asyncio
import json
import shutil
import ssl
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import openai
import pytest

from tests.fakes.authority import Authority
from tests.fakes.model_host import STREAM_END, ModelHost, complete, event
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, chat, get, post

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates"),
]


def serving(authority: Authority, host: ModelHost) -> AbstractAsyncContextManager[Running]:
    """Run a balancer with the certificate."""
    trusting = authority.trusting()
    return balancing({"A": host}, tls=trusting, tls_cert=authority.cert, tls_key=authority.key)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def shown(balancer: Running) -> bytes:
    """Look at the certificate that a new connection gets."""
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", balancer.port, ssl=unchecked)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


async def test_a_request_by_tls_is_served_and_its_server_is_told_so(authority: Authority) -> None:
    host = ModelHost()
    async with host.running(), serving(authority, host) as balancer:
        response = await balancer.ask(chat())
        page = await balancer.get("/llmhealth-monitor")
        async with openai.AsyncOpenAI(
            base_url=f"https://localhost:{balancer.port}/v1",
            api_key="none",
            http_client=openai.DefaultAsyncHttpxClient(verify=authority.trusting()),
        ) as client:
            answer = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}]
            )

    assert (response.status, page.status) == (200, 200)
    assert answer.choices[0].message.content == "hello"
    assert host.seen[0]["x-forwarded-proto"] == "https"


async def test_who_speaks_plainly_to_tls_disturbs_nobody(authority: Authority) -> None:
    host = ModelHost()
    async with host.running(), serving(authority, host) as balancer:
        for words in (get(b"/llmhealth"), b"\x16\x03\x01" + b"\xff" * 100, b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", balancer.port)
            writer.write(words)
            writer.write_eof()
            with_nothing = await reader.read()
            writer.close()
            assert not with_nothing.startswith(b"HTTP/1.1 200")
        assert (await balancer.ask(chat())).status == 200


async def test_long_bodies_and_streams_pass_whole(authority: Authority) -> None:
    async def long(visit: Visit, message: Message) -> bytes | None:
        return SSE + event("x" * 100_000) * 50 + STREAM_END

    host = ModelHost(long)
    body = {"model": "m", "messages": [{"role": "user", "content": "y" * 5_000_000}]}
    async with host.running(), serving(authority, host) as balancer:
        response = await balancer.ask(post(json.dumps(body).encode()))

    assert response.body.count(b"x" * 100_000) == 50
    assert response.body.endswith(b"[DONE]\n\n")
    assert json.loads(host.seen[0].body) == body


async def test_a_renewed_certificate_is_shown_and_what_is_under_way_goes_on(
    authority: Authority,
) -> None:
    let_go = asyncio.Event()

    async def late(visit: Visit, message: Message) -> bytes | None:
        await let_go.wait()
        return await complete(visit, message)

    host = ModelHost(late)
    async with host.running(), serving(authority, host) as balancer:
        under_way = asyncio.create_task(balancer.ask(chat()))
        await balancer.until(lambda: host.active)
        assert await shown(balancer) == authority.issued[0]
        authority.renew()
        await balancer.until(lambda: _shows(balancer, authority.issued[1]))
        authority.key.write_text("no key")
        await balancer.until(lambda: balancer.events("files.refused"))
        assert await shown(balancer) == authority.issued[1]
        let_go.set()
        assert (await under_way).status == 200


async def _shows(balancer: Running, certificate: bytes) -> bool:
    return await shown(balancer) == certificate
