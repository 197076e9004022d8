"""Servers that want a key, stand behind TLS or a path, or call models by other names."""

import json
import shutil
import ssl
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.authority import Authority
from tests.fakes.model_host import ModelHost
from tests.fakes.process import balancing
from tests.fakes.sockets import Message, Visit, bearer, chat, get, ok, post

pytestmark = pytest.mark.anyio

KEY = "sk-of-the-server-0123456789"
JSON = b"content-type: application/json"
PATH = b"/v1/chat/completions"
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates"
)


class Probed(ModelHost):
    """A model server that remembers its probes."""

    def __init__(self, models: tuple[str, ...] = ("m",)) -> None:
        super().__init__(models=models, probe=self.note)
        self.probes: list[Message] = []

    async def note(self, visit: Visit, message: Message) -> bytes:
        self.probes.append(message)
        return self.list_models(message)


def at(host: ModelHost, **more: object) -> dict[str, object]:
    """Write the settings of a server."""
    return {"addr": f"http://127.0.0.1:{host.port}", "health": "openai", **more}


def lines(message: Message, name: str) -> list[str]:
    return [value for header, value in message.headers if header == name]


@pytest.mark.parametrize(
    ("auth", "key", "header", "value"),
    [
        ("bearer", KEY, "authorization", f"Bearer {KEY}"),
        ("x-api-key", KEY, "x-api-key", KEY),
        ("basic", "me:secret", "authorization", f"Basic {b64encode(b'me:secret').decode()}"),
    ],
)
async def test_a_server_gets_its_own_key_from_requests_and_probes_and_no_client_s(
    auth: str, key: str, header: str, value: str
) -> None:
    host = Probed()
    async with (
        host.running(),
        balancing({"A": at(host, api_key=key, auth=auth)}) as balancer,
    ):
        client = bearer("of-the-client")
        await balancer.ask(post(b'{"model":"m"}', PATH, client, b"x-api-key: of-the-client"))
        await balancer.ask(get(b"/props", client))

    for message in (*host.seen, *host.probes):
        assert lines(message, header) == [value]
        assert "of-the-client" not in str(message.headers)


async def test_a_server_gets_further_headers_in_place_of_the_client_s() -> None:
    host = Probed()
    headers = {"X-Tenant": "a", "user-agent": "us"}
    async with host.running(), balancing({"A": at(host, headers=headers)}) as balancer:
        await balancer.ask(post(b'{"model":"m"}', PATH, b"x-tenant: b", b"user-agent: client"))

    (message,) = host.seen
    assert (lines(message, "x-tenant"), lines(message, "user-agent")) == (["a"], ["us"])
    assert lines(host.probes[0], "x-tenant") == ["a"]


async def test_a_server_s_path_goes_before_every_other() -> None:
    class Below(Probed):
        def list_models(self, message: Message) -> bytes:
            target = message.start.split()[1]
            if target == "/llama/moved?a=1":
                return b"HTTP/1.1 302 \r\nlocation: /llama/there\r\ncontent-length: 0\r\n\r\n"
            message.start = message.start.replace("/llama/", "/")
            return super().list_models(message)

    host = Below()
    async with host.running():
        below = f"http://127.0.0.1:{host.port}/llama/"
        async with balancing({"A": {"addr": below, "health": "openai"}}) as balancer:
            assert (await balancer.ask(chat())).status == 200
            moved = await balancer.ask(get(b"/moved?a=1"))

    assert host.seen[0].start == "POST /llama/v1/chat/completions HTTP/1.1"
    assert moved["location"] == "/there"


async def test_a_model_has_its_own_name_there_and_the_asked_one_here() -> None:
    host = ModelHost(models=("Qwen/Qwen3-8B", "other"))

    async def echo(visit: Visit, message: Message) -> bytes:
        named = json.loads(message.body)["model"]
        return ok(json.dumps({"model": named, "usage": {}}).encode(), JSON)

    host.handle = echo
    async with (
        host.running(),
        balancing({"A": at(host, models={"qwen3:8b": "Qwen/Qwen3-8B"})}) as balancer,
    ):
        response = await balancer.ask(chat("qwen3:8b"))
        listed: dict[str, Any] = json.loads((await balancer.get("/v1/models")).body)

    assert host.asked_for == ["Qwen/Qwen3-8B"]
    assert json.loads(response.body)["model"] == "qwen3:8b"
    assert response["x-balancer-instance"] == "qwen3:8b"
    assert [model["id"] for model in listed["data"]] == ["other", "qwen3:8b"]


@needs_openssl
async def test_a_server_s_private_authority_is_believed_and_a_certificate_shown(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.cert))
    serving.load_cert_chain(authority.cert, authority.key)
    serving.verify_mode = ssl.CERT_REQUIRED
    host = ModelHost()
    async with host.running(tls=serving):
        told = {
            "addr": f"https://localhost:{host.port}",
            "ca_file": str(authority.cert),
            "client_cert": str(authority.cert),
            "client_key": str(authority.key),
        }
        async with balancing({"A": told}) as balancer:
            assert (await balancer.ask(chat())).status == 200


@needs_openssl
async def test_a_certificate_that_nobody_checks_is_warned_of(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(authority.cert, authority.key)
    host = ModelHost()
    async with host.running(tls=serving):
        told = {"addr": f"https://127.0.0.1:{host.port}", "verify": False}
        async with balancing({"A": told}) as balancer:
            assert (await balancer.ask(chat())).status == 200
            await balancer.until(lambda: balancer.events("server.unverified"))


async def test_a_key_in_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first\n")
    host = Probed()
    async with (
        host.running(),
        balancing({"A": at(host, api_key_file=str(file))}) as balancer,
    ):
        await balancer.ask(chat())
        file.write_text("second\n")
        await balancer.until(lambda: balancer.events("settings.taken_in"))
        await balancer.ask(chat())

    keys = [lines(message, "authorization") for message in host.seen]
    assert keys == [["Bearer first"], ["Bearer second"]]


async def test_a_server_s_key_stands_in_no_output(tmp_path: Path) -> None:
    host = ModelHost()
    secret: dict[str, object] = {"api_key": KEY, "headers": {"x-tenant": KEY}}
    async with (
        host.running(),
        balancing({"A": at(host, **secret)}, log_level="debug") as balancer,
    ):
        await balancer.ask(chat())
        paths = ("/llmhealth-snapshot", "/metrics", "/llmhealth-monitor", "/access-log-stats")
        told = [(await balancer.get(path)).body.decode() for path in paths]
        explained = await balancer.ask(post(b'{"model":"m"}', b"/llmhealth-explain"))
        told.append(explained.body.decode())
        told.append(str(balancer.log()))

    assert all(KEY not in text for text in told)
