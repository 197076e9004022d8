from dataclasses import replace

from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask, Choice
from app.routing.ejection import LONGEST, UNTRIED
from app.routing.fleet import Fleet, Server
from app.routing.health_window import Sample
from app.routing.ledger import Lease
from app.routing.model_memory import MOST_INSTANCES
from app.routing.observations import CacheReuse, HealthSeen, ModelsSeen, ProbeFailed, SelfReport
from app.routing.prompt import Prompt
from app.routing.prompt_change import PromptChange
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_CPP, OLLAMA, VLLM


def balancer(
    clock: Clock | None = None, *, request_max: int | None = 1, **options: object
) -> Balancer:
    servers = [Server(name, f"http://{name}", request_max=request_max) for name in ("A", "B")]
    fleet = Fleet.of(servers, {"m.*": ["A", "B"]}, fallback="B")
    return Balancer(fleet, clock=clock or Clock(), **options)  # type: ignore[arg-type]


def ask(client: str = "alice", model: str = "m") -> Ask:
    return Ask(model, (model,), client, "10.0.0.1")


UNROUTED = Ask("/v1/embeddings", ("/v1/embeddings",), "10.0.0.1", "10.0.0.1", routed=False)


def placed(answer: Lease | Refusal) -> Lease:
    assert isinstance(answer, Lease)
    return answer


def test_choosing_and_booking_are_one_step() -> None:
    b = balancer()

    servers = [placed(b.place(ask(client))).server for client in ("alice", "bob")]

    assert servers == ["A", "B"]
    assert b.place(ask("carol")) is Refusal.FULL


def test_a_released_place_can_be_taken_again_and_is_announced() -> None:
    b = balancer()
    leases = [placed(b.place(ask(client))) for client in ("alice", "bob")]
    announced = []
    b.on_room = lambda: announced.append(b.backend("A").ledger.total)

    leases[0].release()

    assert announced == [0]
    assert placed(b.place(ask("carol"))).server == "A"


def test_a_client_comes_back_to_the_instance_it_was_on_under_the_name_it_asks_for() -> None:
    """A pin stored by instance and looked up by model was lost for every `m-2`."""
    b = balancer(request_max=2)
    b.observe(ModelsSeen("A", ["m", "m-2"]))
    with placed(b.place(ask("bob"))):
        first = placed(b.place(ask("alice")))
        assert (first.server, first.instance) == ("A", "m-2")
    first.release()

    second = placed(b.place(ask("alice")))

    assert (second.instance, second.reason) == ("m-2", "sticky")


def test_a_pin_is_refreshed_at_the_end_of_a_request_too() -> None:
    clock = Clock()
    b = balancer(clock)
    with placed(b.place(ask("bob"))):
        long = placed(b.place(ask("alice")))
        assert long.server == "B"
        clock.tick(1_000)
        long.release()
    clock.tick(179)

    assert placed(b.place(ask("alice"))).reason == "sticky"


def test_the_pinned_server_is_left_when_it_is_invalid() -> None:
    b = balancer()
    placed(b.place(ask("alice"))).release()
    b.observe(ProbeFailed("A", "models", unreachable=True))

    assert placed(b.place(ask("alice"))).server == "B"


def test_servers_that_were_tried_are_not_chosen_again() -> None:
    b = balancer()

    assert placed(b.place(ask(), tried={"A"})).server == "B"
    assert b.place(ask(), tried={"A", "B"}) is Refusal.UNKNOWN


def test_a_model_that_no_pattern_matches_goes_to_the_fallback_unchanged_and_is_not_pinned() -> None:
    b = balancer()
    b.observe(ModelsSeen("B", ["other", "other-2"]))

    lease = placed(b.place(ask(model="other")))

    assert (lease.server, lease.instance, lease.reason) == ("B", "other", "fallback")
    assert b.pins() == []
    assert b.place(ask(model="other")) is Refusal.FULL


def test_without_servers_there_is_nowhere_to_go() -> None:
    b = Balancer(Fleet.of([]), clock=Clock())

    assert b.place(ask()) is Refusal.UNKNOWN
    assert b.place(UNROUTED) is Refusal.UNKNOWN


def test_requests_that_are_not_routed_share_the_limit_of_the_fallback() -> None:
    b = balancer()
    lease = placed(b.place(UNROUTED))

    assert (lease.server, lease.instance) == ("B", "/v1/embeddings")
    assert b.place(UNROUTED) is Refusal.FULL


def test_overflow_first_sends_what_finds_all_full_to_the_first_server() -> None:
    b = balancer(overflow="first")
    for client in ("alice", "bob"):
        placed(b.place(ask(client)))

    lease = placed(b.place(ask("carol")))

    assert (lease.server, lease.reason) == ("A", "overflow")


def test_overflow_passes_by_who_drains_or_loads() -> None:
    b = balancer(overflow="first")
    for client in ("alice", "bob"):
        placed(b.place(ask(client)))
    b.drain("A", on=True)

    assert placed(b.place(ask("carol"))).server == "B"
    b.observe(SelfReport("B", LLAMA_CPP, loading=True))
    assert b.place(ask("carol")) is Refusal.FULL
    assert b.place(UNROUTED) is Refusal.FULL


def test_what_is_considered_is_what_overflow_would_do() -> None:
    b = balancer(overflow="first")
    for client in ("alice", "bob"):
        placed(b.place(ask(client)))

    assert b.consider(ask("carol"))[1] == Choice("A", "m", "overflow")


def test_news_of_health_reaches_the_window() -> None:
    b = balancer()
    b.observe(HealthSeen("A", Sample(True, 90.0, 5.0)))

    assert b.backend("A").health.last == Sample(True, 90.0, 5.0)


def turn(number: int = 1, who: str = "alice") -> Prompt:
    """Write what somebody sends in a turn: all before it, and something new."""
    said = [f"user\n{who} {n} " + "blah " * 99 for n in range(number)]
    return Prompt(["system\n" + "kind " * 99, *said], opening=1)


def test_a_conversation_is_found_again_whoever_s_address_it_comes_from() -> None:
    b = balancer(request_max=2)
    placed(b.place(replace(ask("10.0.0.1"), prompt=turn(who="alice")))).release()
    placed(b.place(replace(ask("10.0.0.1"), prompt=turn(who="bob")))).release()

    found = [
        placed(b.place(replace(ask("10.0.0.9"), prompt=turn(2, who)))) for who in ("bob", "alice")
    ]

    assert [(lease.server, lease.reason) for lease in found] == [
        ("B", "cached_prompt"),
        ("A", "cached_prompt"),
    ]


def test_a_slot_is_named_only_to_a_server_that_tells_which_ones_are_free() -> None:
    b = balancer(request_max=2)
    b.observe(SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset()))
    b.observe(SelfReport("B", VLLM, active=0))

    leases = [placed(b.place(replace(ask(), prompt=turn(who=who)))) for who in "abcd"]

    assert sorted((lease.server, lease.slot) for lease in leases[::2]) == [("A", 0), ("A", 1)]
    assert {lease.slot for lease in leases[1::2]} == {None}


def test_a_server_that_is_busy_with_somebody_else_s_requests_counts_as_busy() -> None:
    b = balancer(request_max=2)
    b.observe(SelfReport("A", VLLM, active=2))

    assert placed(b.place(ask())).server == "B"


def test_what_we_sent_ourselves_is_nobody_else_s() -> None:
    b = balancer(request_max=3)
    lease = placed(b.place(ask()))

    b.observe(SelfReport("A", VLLM, active=1))
    lease.release()
    b.observe(SelfReport("A", VLLM, active=1))

    assert b.backend("A").ledger.foreign == 0


def test_slots_that_a_server_tells_of_are_its_limit_where_none_is_set() -> None:
    b = balancer(request_max=None)
    b.observe(SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset()))
    b.observe(SelfReport("B", LLAMA_CPP, slots=1, busy_slots=frozenset()))

    for client in "abc":
        assert placed(b.place(ask(client)))
    assert b.place(ask("d")) is Refusal.FULL


def test_a_limit_of_slots_goes_with_them_and_not_with_a_restart() -> None:
    b = balancer(request_max=None)
    b.observe(SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset()))
    limits = []
    for observation in (
        ProbeFailed("A", "models", unreachable=True),
        ModelsSeen("A", ["m"]),
        SelfReport("A", LLAMA_CPP, loading=True),
        SelfReport("A", VLLM, active=0),
    ):
        b.observe(observation)
        limits.append(b.backend("A").ledger.limit)

    assert limits == [2, 2, 2, None]


def test_what_a_server_no_longer_tells_is_not_believed() -> None:
    b = balancer(request_max=2)
    b.observe(SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset({0, 1}), active=2))

    b.observe(SelfReport("A", LLAMA_CPP, slots=2))

    assert b.backend("A").ledger.foreign == 0
    assert not b.backend("A").elsewhere


def test_what_was_told_before_three_failures_is_not_believed() -> None:
    b = balancer(request_max=2)
    b.observe(SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset({0, 1}), active=2))

    for _ in range(3):
        b.observe(ProbeFailed("A", "models", unreachable=False))

    assert b.backend("A").self_report is None
    assert b.backend("A").ledger.foreign == 0


def test_a_server_that_has_fallen_asleep_holds_no_prompt() -> None:
    b = balancer(request_max=2)
    awake = SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset(), active=0)
    b.observe(awake)
    placed(b.place(replace(ask(), prompt=turn()))).release()
    b.observe(awake)
    assert b.holds(replace(ask(), prompt=turn(2)))

    b.observe(replace(awake, loaded=frozenset()))

    assert not b.holds(replace(ask(), prompt=turn(2)))


def test_slots_are_no_limit_where_that_is_switched_off_or_one_is_set() -> None:
    told = SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset())
    free, limited = balancer(request_max=None, adopt_slots=False), balancer(request_max=5)
    for b in (free, limited):
        b.observe(told)

    assert (free.backend("A").ledger.limit, limited.backend("A").ledger.limit) == (None, 5)


def test_a_server_that_loads_its_model_is_waited_for_until_it_tells_that_it_has() -> None:
    b = balancer()
    for name in ("A", "B"):
        b.observe(SelfReport(name, LLAMA_CPP, loading=True))
    assert b.place(ask()) is Refusal.FULL
    assert b.backend("A").status == "loading"

    b.observe(ModelsSeen("A", ["m"]))  # llama.cpp lists them while it loads
    assert b.place(ask()) is Refusal.FULL

    b.observe(SelfReport("A", LLAMA_CPP, slots=1, busy_slots=frozenset()))

    assert placed(b.place(ask())).server == "A"


def test_a_server_that_has_the_model_in_memory_goes_before_one_that_must_load_it() -> None:
    b = balancer()
    b.observe(SelfReport("A", OLLAMA, loaded=frozenset({"other"})))
    b.observe(SelfReport("B", OLLAMA, loaded=frozenset({"m"})))

    assert placed(b.place(ask("alice"))).server == "B"
    assert b.place(replace(ask("bob"), prompt=turn())) is Refusal.FULL  # that is sooner free


def test_a_client_stays_where_its_model_is_being_loaded() -> None:
    b = balancer(request_max=2)
    b.observe(SelfReport("A", OLLAMA, loaded=frozenset()))
    placed(b.place(ask())).release()
    b.observe(SelfReport("B", OLLAMA, loaded=frozenset({"m"})))

    assert placed(b.place(ask())).reason == "sticky"


def test_a_pin_gives_way_where_the_model_was_unloaded_and_is_in_memory_elsewhere() -> None:
    b = balancer(request_max=2)
    placed(b.place(ask())).release()
    b.observe(SelfReport("A", OLLAMA, loaded=frozenset()))
    b.observe(SelfReport("B", OLLAMA, loaded=frozenset({"m"})))

    assert placed(b.place(ask())).server == "B"


def test_a_model_that_was_unloaded_for_another_left_no_prompt_behind() -> None:
    b = balancer(request_max=2)
    b.observe(ModelsSeen("A", ["m", "m-other"]))
    b.observe(SelfReport("A", OLLAMA, loaded=frozenset({"m"})))
    lease = placed(b.place(replace(ask(), prompt=turn())))
    other = SelfReport("A", OLLAMA, loaded=frozenset({"m-other"}))
    b.observe(other)
    lease.release()
    b.observe(other)
    assert b.holds(replace(ask(), prompt=turn(2)))  # it may have been loaded in the meantime

    b.observe(other)

    assert not b.holds(replace(ask(), prompt=turn(2)))


def test_a_model_that_is_loaded_for_one_request_is_not_loaded_elsewhere_for_the_next() -> None:
    b = balancer(request_max=2)
    for name in ("A", "B"):
        b.observe(SelfReport(name, OLLAMA, loaded=frozenset()))

    assert [placed(b.place(ask(client))).server for client in ("alice", "bob")] == ["A", "A"]


def test_ollamas_zero_is_no_word_about_its_cache() -> None:
    b = balancer()
    b.observe(SelfReport("A", OLLAMA, loaded=frozenset({"m"})))
    for number in (1, 2):
        lease = placed(b.place(replace(ask(), prompt=turn(number))))
        lease.reuse = CacheReuse(prompt=100, cached=0, seconds=None)
        lease.release()

    assert not b.forecasts
    assert not b.tokens


def test_a_block_that_vllm_has_not_filled_is_no_miss() -> None:
    b = balancer()
    b.observe(SelfReport("A", VLLM, active=0))
    for number, prompt, cached in ((1, 450, 0), (2, 460, 256), (3, 100, 0), (4, 470, 0)):
        lease = placed(b.place(replace(ask(), prompt=turn(number))))
        lease.reuse = CacheReuse(prompt, cached=cached, seconds=None)
        lease.release()

    assert {result: count for (_, result), count in b.forecasts.items()} == {
        "none": 1,
        "hit": 1,
        "miss": 1,
    }


def test_new_conversations_do_not_pile_up_where_nothing_tells_of_slots() -> None:
    servers = [Server("A", "http://A"), Server("B", "http://B", request_max=2)]
    b = Balancer(Fleet.of(servers, {"m.*": ["A", "B"]}), clock=Clock())

    went = [
        placed(b.place(replace(ask(f"client {n}"), prompt=Prompt([f"{n}" * 2_000])))).server
        for n in range(4)
    ]

    assert went == ["A", "B", "B", "A"]


def test_an_answer_without_the_expected_tokens_is_a_miss_and_one_with_them_a_hit() -> None:
    b = balancer()
    for number, cached in ((1, 0), (2, 90), (3, 10)):
        lease = placed(b.place(replace(ask(), prompt=turn(number))))
        lease.reuse = CacheReuse(prompt=100, cached=cached, seconds=None)
        lease.release()

    assert {result: count for (_, result), count in b.forecasts.items()} == {
        "none": 1,
        "hit": 1,
        "miss": 1,
    }
    assert b.tokens == {("A", "cache"): 100, ("A", "work"): 200}


def test_a_cache_that_ended_where_a_model_reasoned_shows_that_reasoning_was_left_out() -> None:
    b = balancer()
    texts = [f"{number} " * 300 for number in range(5)]
    changes = []
    for prompt, cached in (
        (Prompt(texts[:3], 0, [1]), 0),
        (Prompt(texts[:4], 0, [1]), 74),
        (Prompt(texts[:5], 0, [1]), 22),
        (Prompt(texts[:5], 0, []), 60),
    ):
        lease = placed(b.place(replace(ask(), prompt=prompt)))
        lease.reuse = CacheReuse(prompt=100, cached=cached, seconds=2.0)
        lease.release()
        changes.append(lease.change)

    assert changes == [None, None, PromptChange("reasoning", 1, 0), None]


def test_text_that_is_held_in_vain_is_told_though_most_of_a_prompt_is_cached() -> None:
    b = balancer()
    start, end = [f"{number} " * 300 for number in range(8)], "the end " * 100
    first = placed(b.place(replace(ask(), prompt=Prompt([*start, "a reminder", end], 0))))
    first.release()
    moved = placed(b.place(replace(ask(), prompt=Prompt([*start, end, "a reminder"], 0))))
    moved.release()
    anew = placed(b.place(replace(ask(), prompt=Prompt([*start, "something else " * 90], 0))))

    assert moved.change == PromptChange("moved", 8, 0)
    assert anew.change is None


def test_a_server_that_tells_no_cached_tokens_is_believed() -> None:
    b = balancer()
    lease = placed(b.place(replace(ask(), prompt=turn())))

    lease.reuse = CacheReuse(prompt=100, cached=None, seconds=None)
    lease.release()

    assert not b.forecasts


def test_the_speed_of_reading_is_learned_from_long_prompts() -> None:
    b = balancer()
    for told in (CacheReuse(1000, 200, 2.0), CacheReuse(10, None, 2.0)):
        lease = placed(b.place(ask()))
        lease.reuse = told
        lease.release()

    assert b.backend("A").prefill == 400.0


def test_a_server_that_was_away_is_believed_to_hold_nothing() -> None:
    b = balancer()
    placed(b.place(replace(ask(), prompt=turn()))).release()

    b.observe(ProbeFailed("A", "models", unreachable=True))
    b.observe(ModelsSeen("A", ["m"]))

    assert placed(b.place(replace(ask(), prompt=turn(2)))).reason == "empty_slot"


def test_a_second_tier_gets_new_conversations_once_the_first_is_full_and_keeps_them() -> None:
    servers = [
        Server("A", "http://a", request_max=1, tier=2),
        Server("B", "http://b", request_max=1),
    ]
    b = Balancer(Fleet.of(servers, {"m": ["A", "B"]}), clock=Clock())

    first = placed(b.place(replace(ask("alice"), prompt=turn(who="alice"))))
    second = placed(b.place(replace(ask("bob"), prompt=turn(who="bob"))))
    for lease in (first, second):
        lease.release()

    assert (first.server, second.server) == ("B", "A")
    assert placed(b.place(replace(ask("bob"), prompt=turn(2, "bob")))).server == "A"
    assert placed(b.place(ask("carol"))).server == "B"


def test_a_server_of_twice_the_weight_carries_twice_as_much() -> None:
    servers = [
        Server("A", "http://a", request_max=9),
        Server("B", "http://b", request_max=9, weight=2.0),
    ]
    b = Balancer(Fleet.of(servers, {"m": ["A", "B"]}), clock=Clock())

    taken = [placed(b.place(replace(ask(), prompt=turn(who=who)))).server for who in "abcdef"]

    assert sorted(taken) == ["A", "A", "B", "B", "B", "B"]


def test_a_place_that_holds_the_prompt_is_told_from_one_that_does_not() -> None:
    b = balancer()
    placed(b.place(replace(ask(), prompt=turn()))).release()

    assert b.holds(replace(ask(), prompt=turn(2)))
    assert not b.holds(replace(ask(), prompt=turn(2, "bob")))
    assert not b.holds(replace(ask(model="unknown"), prompt=turn(2)))
    assert not b.holds(replace(ask(), prompt=turn(2)), tried=("A",))


def test_invented_names_leave_no_trace_in_what_is_believed_of_caches() -> None:
    b = balancer(request_max=None)
    placed(b.place(replace(ask(), prompt=turn()))).release()

    for number in range(MOST_INSTANCES):
        b.consider(replace(ask(model=f"m{number}"), prompt=turn()))

    assert placed(b.place(replace(ask(), prompt=turn(2)))).reason == "remembered_prompt"


def test_invented_names_push_out_only_what_was_used_before_them() -> None:
    b = balancer(request_max=None)
    for number in range(MOST_INSTANCES + 1):
        placed(b.place(replace(ask(model=f"m{number}"), prompt=turn()), tried={"B"})).release()

    assert sum(1 for _ in b.backend("A").prompt_caches()) == MOST_INSTANCES
    placed(b.place(replace(ask(), prompt=turn()), tried={"B"})).release()
    assert placed(b.place(replace(ask(), prompt=turn(2)))).reason == "remembered_prompt"


def test_a_slot_is_not_named_before_it_is_known_which_one_an_unnamed_request_took() -> None:
    b = balancer(request_max=2)
    b.observe(SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset()))
    b.drain("B", on=True)
    several = placed(b.place(replace(ask(), prompt=turn(), takes_slot=False)))
    assert several.slot is None

    unsure = placed(b.place(replace(ask("bob"), prompt=turn(who="bob"))))
    assert unsure.slot is None
    unsure.release()

    b.observe(SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset({0})))
    assert placed(b.place(replace(ask("bob"), prompt=turn(2, "bob")))).slot == 1


def test_a_request_that_no_server_worked_on_evicts_nobody() -> None:
    b = balancer()
    b.observe(SelfReport("A", LLAMA_CPP, slots=1, busy_slots=frozenset()))
    b.drain("B", on=True)
    placed(b.place(replace(ask(), prompt=turn()))).release()
    lost = placed(b.place(replace(ask("bob"), prompt=turn(who="bob"))))

    lost.worked = False
    lost.release()

    assert placed(b.place(replace(ask(), prompt=turn(2)))).reason == "cached_prompt"


def test_what_was_placed_before_a_server_told_its_slots_keeps_one() -> None:
    b = balancer(request_max=2)
    early = placed(b.place(replace(ask(), prompt=turn())))
    b.observe(SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset({0})))
    b.drain("B", on=True)

    assert placed(b.place(replace(ask("bob"), prompt=turn(who="bob")))).slot == 1
    early.release()
    assert placed(b.place(replace(ask(), prompt=turn(2)))).slot == 0


def test_a_server_that_nobody_tries_after_its_ejection_is_up_again() -> None:
    clock = Clock()
    b = balancer(clock)
    statuses = []
    b.on_change = lambda backend, _: statuses.append(backend.status)
    b.observe(ModelsSeen("A", ["m"]))
    lease = placed(b.place(ask()))
    lease.fault = "status_429"
    lease.release()
    clock.tick(LONGEST + UNTRIED)
    b.observe(ModelsSeen("A", ["m"]))

    assert statuses[-2:] == ["ejected", "idle"]
    assert b.backend("A").changed is not None
