from app.routing.prompt_change import Kind, PromptChange
from app.telemetry.changed_prompts import HOUR, MOST, SHOWN, ChangedPrompts
from app.telemetry.record import Record
from app.telemetry.response_reader import ResponseReader
from tests.fakes import records
from tests.fakes.clock import Clock


def read_again(
    kind: Kind = "clock", client: str = "alice", agent: bytes = b"agent/1 (x)", message: int = 0
) -> Record:
    response = ResponseReader(streams=False)
    response.passes(b'{"usage":{"prompt_tokens":100,"prompt_tokens_details":{"cached_tokens":40}}}')
    record = records.record(server="A", instance="m", username=client, response=response)
    record.user_agent = agent
    assert record.lease is not None
    record.lease.change = PromptChange(kind, message, 7)
    record.lease.reading_seconds = 1.5
    return record


def test_what_each_client_program_and_kind_cost_is_summed_up() -> None:
    changed = ChangedPrompts(Clock())
    for record in (read_again(), read_again(message=2), read_again("tools"), read_again(agent=b"")):
        changed.finished(record)

    first, *others = changed.worst()

    assert first.pop("advice")
    assert first == {
        "client": "alice",
        "program": "agent/1",
        "kind": "clock",
        "requests": 2,
        "tokens": 120,
        "seconds": 3.0,
        "message": 2,
        "character": 7,
    }
    assert {(one["program"], one["kind"]) for one in others} == {
        ("agent/1", "tools"),
        ("", "clock"),
    }


def test_a_conversation_that_merely_goes_on_is_not_told() -> None:
    changed = ChangedPrompts(Clock())
    changed.finished(records.record(server="A", instance="m"))
    changed.finished(records.record())

    assert changed.worst() == []


def test_an_hour_later_it_is_forgotten() -> None:
    clock = Clock()
    changed = ChangedPrompts(clock)
    changed.finished(read_again())
    clock.tick(HOUR + 1)

    assert changed.worst() == []


def test_clients_that_make_names_up_take_no_more_room() -> None:
    changed = ChangedPrompts(Clock())
    for number in range(MOST + 10):
        changed.finished(read_again(client=f"{number}" * 1000, agent=b"\xff" * 1000))

    told = changed.worst()

    assert len(told) == SHOWN
    assert max(len(one["client"] + one["program"]) for one in told) <= 256
