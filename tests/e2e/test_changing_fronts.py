"""A line that is new in every request costs no cache: it is taken out, and nothing else."""

import json

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import balancing
from tests.fakes.sockets import post

pytestmark = pytest.mark.anyio

LINE = "x-anthropic-billing-header: cc_version=2.1.197.0d9; cc_entrypoint=cli; cch=%s;"
TOOLS = 'You have tools.\\n "quoted" \u00e9 '
OPENAI, ANTHROPIC, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


CASES = [
    (ANTHROPIC, f'{{"type":"text","text":"{LINE}"}}, ', '{"system":[%s{"text":"rest"}],"n":1e2}'),
    (ANTHROPIC, LINE + "\\n", '{"system" : "%sYou are…", "messages":[]}'),
    (ANTHROPIC, LINE, '{"system":"%s"}'),
    (ANTHROPIC, LINE + "\\n", '{"system":[{"text":"%sthe rest\\n","type":"text"}]}'),
    (OPENAI, LINE + "\\n", '{"messages":[{"role":"system","content":"%sBe brief."}]}'),
    (OPENAI, LINE + "\\n", '{"messages":[{"content":[{"text":"%sHi"}],"role":"developer"}]}'),
    (
        OPENAI,
        f', {{"type":"text","text":"{LINE}"}}',
        '{"messages":[{"role":"system","content":[{"text":"a"}%s]}]}',
    ),
    (RESPONSES, LINE + "\\n", '{"instructions":"%sBe brief.","input":"hi"}'),
    (RESPONSES, LINE + "\\n", '{"input":[{"role":"developer","content":"%sBe brief."}]}'),
    (
        RESPONSES,
        f'{{"type":"input_text","text":"{LINE}"}},',
        '{"input":[{"role":"system","content":[%s{"type":"input_text","text":"a"}]}]}',
    ),
]


@pytest.mark.parametrize(("path", "line", "template"), CASES)
@pytest.mark.parametrize("routed", ["all", OPENAI])
async def test_the_line_is_taken_out_and_every_other_byte_stays(
    path: str, line: str, template: str, routed: str
) -> None:
    template = template.replace("{", '{"model":"m",', 1)
    host = ModelHost()
    async with host.running():
        settings = {"routed_paths": routed, "adopt_slots": "false"}
        async with balancing({"A": host}, None, **settings) as balancer:  # type: ignore[arg-type]
            for value in ("aaa", "bbb"):
                body = template % (line % value)
                assert (await balancer.ask(post(body.encode(), path.encode()))).status == 200

    assert [message.body for message in host.seen] == [(template % "").encode()] * 2


@pytest.mark.parametrize(
    "template",
    [
        '{"model":"m","messages":[{"role":"user","content":"%s\\nhi"}]}',
        '{"model":"m","messages":[{"role":"system","content":"Never say %s"}]}',
        '{"model":"m","messages":[],"metadata":{"system":"%s"}}',
    ],
)
async def test_the_same_words_elsewhere_are_somebody_s_own(template: str) -> None:
    body = template % LINE
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        await balancer.ask(post(body.encode()))

    assert host.seen[0].body == body.encode()


async def test_the_rewrite_can_be_switched_off() -> None:
    body = b'{"model":"m","messages":[{"role":"system","content":"%b"}]}' % LINE.encode()
    host = ModelHost()
    async with host.running(), balancing({"A": host}, stable_prompts="off") as balancer:
        await balancer.ask(post(body))

    assert host.seen[0].body == body


async def test_a_conversation_comes_back_to_where_its_prompt_is() -> None:
    hosts = [ModelHost(), ModelHost()]
    went = []
    async with hosts[0].running(), hosts[1].running():
        async with balancing(dict(zip("AB", hosts, strict=True))) as balancer:
            said = [{"role": "system", "content": ""}]
            for turn in range(3):
                said[0]["content"] = f"{LINE % turn}\n" + TOOLS * 50
                said.append({"role": "user", "content": f"question {turn} " * 30})
                body = json.dumps({"model": "m", "messages": said}).encode()
                response = await balancer.ask(post(body))
                went.append((response["x-balancer-server"], response["x-balancer-reason"]))
                said.append({"role": "assistant", "content": "hello"})

    assert len({server for server, _ in went}) == 1
    assert {reason for _, reason in went[1:]} <= {"cached_prompt", "remembered_prompt"}


async def test_conversations_behind_a_clock_stay_where_they_are_and_evict_nobody() -> None:
    hosts = [ModelHost(), ModelHost()]
    went: dict[int, list[str]] = {0: [], 1: [], 2: []}
    reasons = []
    async with hosts[0].running(), hosts[1].running():
        servers = {name: host.limited(2) for name, host in zip("AB", hosts, strict=True)}
        async with balancing(servers) as balancer:
            talks: dict[int, list[dict[str, str]]] = {who: [] for who in went}
            for turn in range(4):
                for who, said in talks.items():
                    clock = {"role": "system", "content": f"It is 15:0{turn}:{who}0. {TOOLS * 50}"}
                    said.append({"role": "user", "content": f"{who} asks {turn} " * 30})
                    body = json.dumps({"model": "m", "messages": [clock, *said]}).encode()
                    response = await balancer.ask(post(body))
                    went[who].append(response["x-balancer-server"])
                    reasons.append(response["x-balancer-reason"])
                    said.append({"role": "assistant", "content": "hello"})

            changed = await balancer.metrics("changed_prompts_total")
            later = body.replace(b"15:03", b"15:04")
            explained = await balancer.ask(post(later, b"/llmhealth-explain"))
            [worst] = (await balancer.snapshot())["changed_prompts"]
            await balancer.until(lambda: len(balancer.events("request")) == 12)
            lines = [line for line in balancer.events("request") if "prompt_change" in line]

    assert [len(set(servers)) for servers in went.values()] == [1, 1, 1]
    assert reasons == ["empty_slot"] * 3 + ["changed_prompt"] * 9
    assert sum(changed.values()) == 9
    assert all('kind="clock"' in labels for labels in changed)
    assert {line["prompt_change"] for line in lines} == {"clock"}
    assert {line["changed_message"] for line in lines} == {0}
    servers_told = json.loads(explained.body)["servers"]
    places = [place["change"] for told in servers_told for place in told["instances"]]
    assert {
        "kind": "clock",
        "message": 0,
        "character": len("system\nIt is 15:0"),
        "advice": worst["advice"],
    } in places
    assert (worst["kind"], worst["requests"]) == ("clock", 9)
    assert "BALANCER_STABLE_PROMPTS" in worst["advice"]


CLOCKED = [
    (OPENAI, '{"messages":[{"role":"system","content":"It is 15:0%d.\\nBe kind."},%s]}'),
    (
        ANTHROPIC,
        '{"system":[{"type":"text","text":"Hi"},{"text":"At \u00e9 15:0%d"}],"messages":[%s]}',
    ),
    (RESPONSES, '{"instructions" : "15:0%d", "input":[%s]}'),
]


@pytest.mark.parametrize(("path", "template"), CLOCKED)
@pytest.mark.parametrize("routed", ["all", OPENAI])
async def test_a_learnt_span_goes_out_as_it_was_in_the_conversations_first_request(
    path: str, template: str, routed: str
) -> None:
    said = '{"role":"user","content":"hi"}'
    turns = [said, f'{said},{{"role":"assistant","content":"15:03"}}', f"{said}, {said}"]
    host = ModelHost()
    async with (
        host.running(),
        balancing({"A": host}, stable_prompts="learn", routed_paths=routed) as balancer,
    ):
        template = template.replace("{", '{"model":"m",', 1)
        for minute, turn in enumerate(turns):
            await balancer.ask(post((template % (minute, turn)).encode(), path.encode()))
        await balancer.until(lambda: balancer.events("prompt.front_kept"))
        [event] = balancer.events("prompt.front_kept")

    assert [message.body.decode() for message in host.seen] == [template % (0, t) for t in turns]
    assert (event["client"], event["text"]) == ("127.0.0.1", 1 if path == ANTHROPIC else 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a" * 300, "b" * 300),
        ("It is 15:00. Be kind.", "It is 15:01. Be kind. " + "Be brief. " * 30),
    ],
)
async def test_a_system_text_that_changes_in_more_than_a_short_span_goes_out_as_it_is(
    first: str, second: str
) -> None:
    bodies = [
        json.dumps({"model": "m", "system": text, "messages": [{"role": "user", "content": "hi"}]})
        for text in (first, second)
    ]
    host = ModelHost()
    async with host.running(), balancing({"A": host}, stable_prompts="learn") as balancer:
        for body in bodies:
            await balancer.ask(post(body.encode()))

    assert [message.body.decode() for message in host.seen] == bodies


async def test_conversations_are_held_to_no_other_conversations_text() -> None:
    bodies = [
        json.dumps({"model": "m", "system": text, "messages": [{"role": "user", "content": said}]})
        for text, said in (("It is 15:00.", "hi"), ("It is 15:01.", "hello"))
    ]
    host = ModelHost()
    async with host.running(), balancing({"A": host}, stable_prompts="learn") as balancer:
        for body in bodies:
            await balancer.ask(post(body.encode()))

    assert [message.body.decode() for message in host.seen] == bodies
