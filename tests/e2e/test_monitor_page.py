"""The monitor page in a real browser."""

from collections.abc import Iterator

import pytest

from tests.fakes.balancer import balancer
from tests.fakes.browser import AVAILABLE, Browser, browser
from tests.fakes.ports import free_port
from tests.fakes.snapshots import (
    BUSY,
    EMPTY,
    HOSTILE,
    HOSTILE_NAME,
    STATES,
    STEERED,
    State,
    backend,
    request,
    state,
)
from tests.fakes.stage import Stage, staging

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs chromium and chromedriver")

KEYED = """
    sessionStorage.removeItem('key');
    window.sent = [];
    window.fetch = async (url, options) => {
        const key = options.headers.authorization;
        const right = key === 'Bearer opensesame';
        if (right) sent.push([url, options.method, key]);
        return { ok: right, status: right ? 200 : 401 };
    };
"""
"""Has the balancer want a key, and notes the orders that show it."""

DRAIN = """
    document.querySelector('#servers button').click();
    document.querySelector('#servers .drain').click();
"""
"""Opens the first server, and drains it or ends that."""

TYPE = """
    document.getElementById('ask-key').value = 'opensesame';
    document.querySelector('#ask button').click();
"""

LIVE = "document.body.dataset.state === 'live'"


class Page:
    """The page of a running balancer, of which a test sets the state."""

    def __init__(self, stage: Stage, window: Browser) -> None:
        self.stage = stage
        self.browser = window

    def show(self, state: State) -> None:
        """Open the page and wait until it shows a state.

        The first event may have been written for the page before, the next one was not.
        """
        self.stage.state = state
        self.browser.open(self.stage.url)
        self.browser.wait_until(LIVE)
        self.browser.evaluate("events.addEventListener('message', () => { window.fresh = true })")
        self.browser.wait_until("window.fresh")

    def text(self) -> str:
        found: str = self.browser.evaluate("return document.body.innerText")
        return found


def give_key(page: Page) -> object:
    """Type the key that is asked for; return the orders that were given with it."""
    page.browser.wait_until("document.getElementById('ask').open")
    page.browser.evaluate(TYPE)
    page.browser.wait_until("sent.length")
    return page.browser.evaluate("return sent")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    server = {"addr": "http://127.0.0.1", "model_port": free_port()}
    with (
        balancer({"nobody-there": server}, {".*": ["nobody-there"]}, ready=False) as running,
        staging(running.url) as stage,
        browser(tmp_path_factory.mktemp("profile")) as window,
    ):
        yield Page(stage, window)
        window.open("about:blank")


def test_a_running_balancer_shows_its_servers(page: Page) -> None:
    page.browser.open(page.stage.balancer + "/llmhealth-monitor")

    page.browser.wait_until(LIVE)
    page.browser.wait_until("document.body.innerText.includes('nobody-there')")
    page.browser.wait_until("document.body.innerText.includes('unreachable')")


def test_a_busy_state_is_shown(page: Page) -> None:
    page.browser.resize(1280, 900)
    page.show(BUSY)

    text = page.text()

    for fact in (
        "tower",
        "2 of 2",
        "93 %",
        "太郎",
        "gpt-oss:20b-2",
        "RTX 4090",
        "322 W",
        "longest 4 s",
        "claude-cli/2.1.36",
        "a hash, message 1",
    ):
        assert fact in text


def test_a_request_opens_to_why_it_went_there_and_where_its_time_went(page: Page) -> None:
    page.show(BUSY)
    page.browser.evaluate("""
        const rows = [...document.querySelectorAll('#requests tr')];
        rows.find((row) => row.innerText.includes('太郎')
            && row.innerText.includes('done')).querySelector('button').click();
    """)
    page.browser.wait_until("document.querySelector('#requests .detail')")

    text = page.text()
    assert "cached prompt, after 12 s beside held places" in text
    for part in ("Queue 13 s", "Model loaded 4.0 s", "Prompt 2.7 s", "Response 5.3 s"):
        assert part in text
    assert "workstation: 2.4 s to read; tower: 21 s to read, 9.5 s for others" in text
    assert "4.2K tokens, 4.1K of them from the cache" in text


def test_requests_that_failed_are_counted_and_marked(page: Page) -> None:
    page.show(BUSY)

    marked = page.browser.evaluate("return document.querySelector('tr[data-is=failed]').innerText")
    assert "1 failed" in page.text()
    assert "server failed (502)" in marked


def test_requests_are_found_by_who_asked_and_how_they_ended(page: Page) -> None:
    page.show(BUSY)

    def listed(field: str, value: str) -> str:
        script = f"""
            const field = document.getElementById('requests-{field}');
            field.value = '{value}';
            field.dispatchEvent(new Event('input'));
            return document.getElementById('requests').innerText
        """
        found: str = page.browser.evaluate(script)
        return found

    assert "太郎" not in listed("client", "alice")
    assert "Alice" in listed("outcome", "under way")
    assert "done" not in listed("outcome", "under way")


def test_a_request_under_way_is_cancelled_with_the_key_that_is_asked_for(page: Page) -> None:
    page.show(state(backend("tower"), under_way=[request(7, state="sent")], drain=True))
    page.browser.evaluate(KEYED)
    page.browser.evaluate("document.querySelector('#requests button').click()")
    page.browser.evaluate("document.querySelector('#requests .detail button').click()")

    assert give_key(page) == [["/llmhealth-requests/id-7", "DELETE", "Bearer opensesame"]]


def test_a_change_is_shown_without_a_reload(page: Page) -> None:
    page.show(BUSY)
    page.browser.evaluate("window.same = true; document.querySelector('#servers button').click()")

    page.stage.state = STATES["server-down"]

    page.browser.wait_until("document.body.innerText.includes('unreachable')")
    assert page.browser.evaluate("return window.same")
    assert page.browser.evaluate("return !!document.querySelector('#servers .detail')")


def test_a_server_is_drained_with_the_key_that_is_asked_for(page: Page) -> None:
    page.show(STEERED)
    page.browser.evaluate(KEYED)
    page.browser.evaluate(DRAIN)

    assert give_key(page) == [["/llmhealth-drain/tower", "DELETE", "Bearer opensesame"]]


def test_a_wrong_key_is_told_and_asked_for_again(page: Page) -> None:
    page.show(STEERED)
    page.browser.evaluate(KEYED)
    page.browser.evaluate(DRAIN)
    page.browser.wait_until("document.getElementById('ask').open")
    page.browser.evaluate(TYPE.replace("opensesame", "wrong"))

    page.browser.wait_until(
        "document.getElementById('ask').innerText.includes('not the admin key')"
    )
    kind = page.browser.evaluate("return document.getElementById('ask-key').type")
    assert kind == "password"
    page.browser.evaluate("document.getElementById('ask').close()")


def test_a_server_whose_agent_is_gone_says_so_and_can_be_drained_as_well(page: Page) -> None:
    silent = backend("gpu1", "draining", drained_by=["agent"])
    page.show(state(silent, drain=True))

    assert "its agent is gone" in page.text()
    assert "Give it requests again" not in page.text()


def test_a_section_that_was_folded_stays_so(page: Page) -> None:
    page.show(BUSY)
    page.browser.evaluate("document.querySelector('#traffic h2 button').click()")
    assert "By model" not in page.text()

    page.show(BUSY)

    assert "By model" not in page.text()
    page.browser.evaluate("document.querySelector('#traffic h2 button').click()")
    assert "By model" in page.text()


def test_usage_is_added_up_by_key_and_by_model(page: Page) -> None:
    page.show(BUSY)

    shown = "document.getElementById('usage').innerText"
    page.browser.wait_until(f"{shown}.includes('Alice')")
    first: str = page.browser.evaluate(f"return {shown}")
    assert first.split()[:6] == ["Alice", "7", "1", "10K", "81", "%"]
    page.browser.evaluate("""
        const by = document.getElementById('usage-by');
        by.value = 'model';
        by.dispatchEvent(new Event('input'));
    """)
    assert page.browser.evaluate(f"return {shown}").split()[:2] == ["gpt-oss:20b", "3"]


def press_first_order(page: Page, server: State) -> None:
    """Open a server's row, and press the first button that has it do something with a model."""
    page.show(state(server, drain=True))
    page.browser.evaluate(KEYED)
    page.browser.evaluate("document.querySelector('#servers button').click()")
    page.browser.evaluate("document.querySelector('#servers .orders button').click()")


def test_a_model_is_loaded_with_the_key_that_is_asked_for(page: Page) -> None:
    swapping = backend("tower", loaded=["qwen3:8b"], orders_models=True)
    press_first_order(page, swapping)

    assert "Unload qwen3:8b" in page.text()
    path = "/llmhealth-models/tower?model=gpt-oss%3A20b"
    assert give_key(page) == [[path, "POST", "Bearer opensesame"]]


def test_a_model_in_memory_is_pinned_and_one_that_is_pinned_is_not(page: Page) -> None:
    swapping = backend("tower", loaded=["gpt-oss:20b", "qwen3:8b"], pinned_models=["qwen3:8b"])
    press_first_order(page, swapping)

    assert "Unpin qwen3:8b" in page.text()
    path = "/llmhealth-pinned/tower?model=gpt-oss%3A20b"
    assert give_key(page) == [[path, "POST", "Bearer opensesame"]]


def test_a_server_that_is_down_says_why_and_since_when(page: Page) -> None:
    there = "http://192.168.1.25:8081/v1/models: it refuses connections"
    changed = {"status": "invalid", "reason": "refused", "at": "2026-11-24T10:20:20Z"}
    page.show(state(backend("tower", "invalid", changed=changed, faults={"models": there})))
    page.browser.evaluate("document.querySelector('#servers button').click()")

    text = page.text()
    assert "10 min ago: it refuses connections" in text
    assert there in text


def test_a_server_with_requests_is_at_work_whatever_its_gpu_says(page: Page) -> None:
    page.show(state(backend("tower", total_inflight=13, request_max=None)))

    row = page.browser.evaluate("return document.querySelector('#servers tr').innerText")
    assert "at work" in row
    assert "13" in row


def test_sixty_servers_are_searched_and_sorted(page: Page) -> None:
    page.browser.resize(1280, 900)
    many = [backend(f"gpu{n:02}", "busy" if n % 2 else "idle", total_inflight=n) for n in range(60)]
    page.show(state(*many))

    def first(script: str) -> str:
        page.browser.evaluate(script)
        name: str = page.browser.evaluate("return document.querySelector('#servers').innerText")
        return name.split()[0]

    flight = "document.querySelectorAll('.servers th button')[2].click()"
    assert first(flight) == "gpu59"
    assert first(flight) == "gpu00"
    search = "const f = document.getElementById('servers-search'); f.value = 'GPU42';"
    assert first(search + "f.dispatchEvent(new Event('input'))") == "gpu42"
    assert page.browser.evaluate("return document.querySelectorAll('#servers tr').length") == 1


def test_twelve_servers_take_one_screen(page: Page) -> None:
    height = "return document.getElementById('servers-part').offsetHeight"
    for width, most in ((1280, 640), (390, 900)):
        page.browser.resize(width, 900)
        page.show(state(*(backend(f"gpu{n:02}", "busy") for n in range(12))))
        assert page.browser.evaluate(height) < most


def test_without_a_key_there_is_nothing_to_drain_with(page: Page) -> None:
    page.show(BUSY)

    assert "Drain" not in page.text()


def test_without_servers_the_page_says_how_to_configure_them(page: Page) -> None:
    page.show(EMPTY)

    assert "BALANCER_SERVERS" in page.text()
    assert "In flight" not in page.text()
    assert "read again" not in page.text()


def test_the_page_warns_where_anybody_on_the_network_may_use_every_model(page: Page) -> None:
    warning = "Anybody on the network may use every model"
    page.show(BUSY)
    assert warning not in page.text()

    page.show({**BUSY, "snapshot": {**BUSY["snapshot"], "open_at": "0.0.0.0"}})

    assert warning in page.text()
    assert "BALANCER_ADMIN_KEY" in page.text()


def test_the_page_tells_that_the_store_is_away_and_what_holds_meanwhile(page: Page) -> None:
    for away in (True, False):
        store = {"replicas": 3, "away": away, "goes_by": "share", "waiting_elsewhere": 5}
        page.show({**BUSY, "snapshot": {**BUSY["snapshot"], "store": store}})
        text = page.text()
        assert ("The store that the balancers share is away" in text) is away
        assert ("Each of the 3 balancers keeps to its share" in text) is away
        assert ("share the servers" in text) is not away
        assert "Waiting at other balancers" in text


def test_the_page_counts_what_is_in_flight_at_a_server_whoever_has_sent_it(page: Page) -> None:
    backends = [{**one, "others_inflight": 5} for one in BUSY["snapshot"]["backends"]]
    page.show({**BUSY, "snapshot": {**BUSY["snapshot"], "backends": backends}})
    limited = next(one for one in backends if one["request_max"] is not None)

    assert f"{limited['total_inflight'] + 5} of {limited['request_max']}" in page.text()


def test_the_page_tells_that_the_settings_were_refused_and_why(page: Page) -> None:
    banner = "The settings that are written now were refused"
    page.show(BUSY)
    assert banner not in page.text()

    mistakes = ["BALANCER_PORT: must be a number", "BALANCER_MODELS: must be a JSON object"]
    page.show({**BUSY, "snapshot": {**BUSY["snapshot"], "refused_settings": mistakes}})

    assert banner in page.text()
    assert "\n".join(mistakes) in page.text()


def test_hostile_names_are_text_and_run_nothing(page: Page) -> None:
    page.browser.console()
    page.show(HOSTILE)

    assert HOSTILE_NAME in page.text()
    assert page.browser.evaluate("return window.hacked") is None
    assert page.browser.evaluate("return document.querySelectorAll('img, main script').length") == 0
    assert page.browser.console() == []


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_page_and_nothing_complains(
    page: Page, name: str, width: int
) -> None:
    page.browser.resize(width, 800)
    page.browser.console()
    page.show(STATES[name])

    assert page.browser.evaluate("return document.documentElement.scrollWidth") <= width
    assert page.browser.console() == []


def test_the_dark_scheme_is_dark(page: Page) -> None:
    page.show(BUSY)
    shades = []
    for scheme in ("light", "dark"):
        page.browser.prefer(scheme)
        colour = page.browser.evaluate("return getComputedStyle(document.body).backgroundColor")
        shades.append(sum(int(part) for part in colour[4:-1].split(",")))

    assert shades[0] > 600
    assert shades[1] < 150


def test_the_page_finds_back_after_the_stream_broke(page: Page) -> None:
    page.show(BUSY)
    page.browser.evaluate("events.close(); state('lost', 'reconnecting'); events.onerror()")
    assert page.browser.evaluate("return document.title").startswith("(reconnecting)")

    page.show(BUSY)

    assert page.browser.evaluate("return document.title") == "llama-balancer"


def test_who_logs_in_sees_the_page_live_drains_without_a_key_and_logs_out(page: Page) -> None:
    server = {"addr": "http://127.0.0.1", "model_port": free_port()}
    keys = {"api_keys": '{"alice": "sk-alice-0123456789"}', "admin_key": "admin-0123456789"}
    with balancer({"kept-close": server}, {".*": ["kept-close"]}, ready=False, **keys) as running:
        window = page.browser
        window.open(running.url + "/llmhealth-monitor")
        for key, sign in (("wrong-0123456789", "not the admin key"), ("admin-0123456789", "close")):
            window.evaluate(f"document.getElementById('key').value = '{key}'")
            window.evaluate("document.querySelector('button').click()")
            window.wait_until(f"document.body.innerText.includes('{sign}')")

        window.wait_until(LIVE)
        window.evaluate(DRAIN)
        window.wait_until("document.body.innerText.includes('drains')")
        assert window.evaluate("return document.cookie") == ""
        window.evaluate("document.querySelector('header button').click()")
        window.wait_until("document.getElementById('key') !== null")
        window.open("about:blank")
