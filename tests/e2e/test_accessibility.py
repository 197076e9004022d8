"""The page for people who use a keyboard or a screen reader, as axe-core judges it."""

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.fakes.balancer import balancer
from tests.fakes.browser import AVAILABLE, Browser, browser
from tests.fakes.ports import free_port
from tests.fakes.snapshots import STATES
from tests.fakes.stage import Stage, staging

pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason="needs chromium and chromedriver"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed"),
]

OPEN_ROWS = "for (const one of document.querySelectorAll('tbody button.opens')) one.click()"

RUN = "axe.run().then((found) => { window.found = found })"
FOUND = "return found.violations.map((one) => `${one.id}: ${one.nodes[0].html}`)"


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("axe")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "axe-core@4"]
    subprocess.run(install, cwd=folder, check=True, capture_output=True)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, Browser]]:
    server = {"addr": "http://127.0.0.1", "model_port": free_port()}
    with (
        balancer({"A": server}, {".*": ["A"]}, ready=False) as running,
        staging(running.url) as stage,
        browser(tmp_path_factory.mktemp("profile")) as window,
    ):
        yield stage, window
        window.open("about:blank")


def opened(stage: tuple[Stage, Browser], name: str) -> Browser:
    """Open the page in some state."""
    told, window = stage
    told.state = STATES[name]
    window.open(told.url)
    window.wait_until("document.body.dataset.state === 'live'")
    return window


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", sorted(STATES))
def test_axe_finds_nothing_to_complain_of(
    name: str, scheme: str, stage: tuple[Stage, Browser], axe: str
) -> None:
    stage[1].prefer(scheme)
    window = opened(stage, name)
    window.evaluate("events.close()")
    window.evaluate(OPEN_ROWS)
    window.evaluate(axe)
    window.evaluate(RUN)
    window.wait_until("window.found")

    assert window.evaluate(FOUND) == []


def test_a_row_opens_by_the_keyboard(stage: tuple[Stage, Browser]) -> None:
    window = opened(stage, "busy")
    window.evaluate("document.querySelector('#servers button').focus()")
    window.press_enter()

    window.wait_until("document.querySelector('#servers .detail')")
    assert window.evaluate("return document.activeElement.getAttribute('aria-expanded')") == "true"


def test_a_word_is_explained_where_it_has_the_focus(stage: tuple[Stage, Browser]) -> None:
    window = opened(stage, "busy")
    window.evaluate("document.querySelectorAll('.servers th button')[6].focus()")

    tip = "document.getElementById('tip')"
    assert "How fast it reads" in window.evaluate(f"return {tip}.textContent")
    assert window.evaluate(f"return {tip}.getBoundingClientRect().right <= innerWidth")
    window.evaluate("document.activeElement.blur()")
    assert window.evaluate(f"return {tip}.hidden")
