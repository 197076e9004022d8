"""A model is tried from the page, through the balancer, as any client asks it."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.fakes.balancer import balancer
from tests.fakes.browser import AVAILABLE, Browser, browser
from tests.fakes.ports import free_port

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs chromium and chromedriver")

KEY = "sk-of-alice-which-is-long"
KEYS = f'{{"alice": "{KEY}"}}'
FACTS = "document.getElementById('try-facts').innerText"
ERROR = "document.getElementById('try-error').innerText"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found
        found.open("about:blank")


@contextlib.contextmanager
def modelled() -> Iterator[dict[str, object]]:
    """Run one of the demo's model servers; gives the settings for it."""
    port = free_port()
    options = {"name": "PC1", "port": port, "models": "qwen3:8b", "prefill": 10_000, "decode": 500}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "app.demo.model_server", *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            _await(f"http://127.0.0.1:{port}/v1/models")
            yield {"PC1": {"addr": "http://127.0.0.1", "model_port": port}}
        finally:
            process.terminate()


def _await(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url).raise_for_status()
            return
        assert time.monotonic() < deadline, "the model server did not start"
        time.sleep(0.05)


def say(window: Browser, text: str) -> None:
    window.wait_until("document.querySelectorAll('#try-model option').length > 1")
    window.evaluate(f"""
        document.getElementById('try-model').value = 'qwen3:8b';
        document.getElementById('try-text').value = '{text}';
        document.getElementById('try-go').click();
    """)


def test_a_response_streams_in_with_where_it_came_from_and_how_fast(window: Browser) -> None:
    with modelled() as there:
        with balancer(there, {".*": ["PC1"]}) as running:
            window.open(running.url + "/llmhealth-monitor")
            say(window, "Hello")
            window.wait_until(FACTS + ".includes('tokens/s')")
            facts = window.evaluate("return " + FACTS)
            say(window, "And then?")
            window.wait_until("document.querySelectorAll('#try-talk p').length === 4")
            window.wait_until(FACTS + ".includes('from the cache')")
            window.open("about:blank")

    assert facts.startswith("PC1 · ")
    assert "first token after" in facts


def test_the_page_asks_for_an_api_key_where_one_is_needed(window: Browser) -> None:
    with modelled() as there:
        opened = '{"/llmhealth-monitor": ["127.0.0.1"]}'
        with balancer(
            there, {".*": ["PC1"]}, ready=False, open_endpoints=opened, api_keys=KEYS
        ) as running:
            window.open(running.url + "/llmhealth-monitor")
            say(window, "Hello")
            window.wait_until(ERROR + ".includes('needs an API key')")
            window.evaluate(f"document.getElementById('try-key').value = '{KEY}'")
            say(window, "Hello")
            window.wait_until(FACTS + ".includes('tokens/s')")
            # What belongs to the page is open as it is: who used how much, too.
            window.wait_until("!document.getElementById('usage-part').hidden")
            window.open("about:blank")
