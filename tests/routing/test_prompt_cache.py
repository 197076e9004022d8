from hypothesis import given
from hypothesis import strategies as st

from app.routing.prefix_index import PrefixIndex
from app.routing.prompt import Prompt
from app.routing.prompt_cache import (
    GUESSED_DEPTH,
    Match,
    Occupancy,
    Placement,
    PromptCache,
    Rank,
    Slot,
)

SYSTEM = "system\n" + "You are kind. " * 40


def turn(who: str, number: int = 1) -> Prompt:
    """Write what somebody sends in a turn: all before it, and something new."""
    said = [f"user\nI am {who}.", *(f"assistant\n{n} " + "blah " * 99 for n in range(1, number))]
    return Prompt([SYSTEM, *said], opening=1)


class Server:
    """Slots, and a clock that goes on by a second with each request."""

    def __init__(self, slots: int | None, stale_after: float = 180.0) -> None:
        self.prompt_cache = PromptCache(slots, stale_after=stale_after, index=PrefixIndex())
        self.now = 0.0

    def asked(self, prompt: Prompt, *, worked: bool = True) -> Placement:
        placement = self.prompt_cache.placement(prompt, self.now + 1.0)
        assert placement is not None
        self.took(prompt).end(self.now, worked=worked)
        return placement

    def took(self, prompt: Prompt) -> Occupancy:
        self.now += 1.0
        placement = self.prompt_cache.placement(prompt, self.now)
        assert placement is not None
        return self.prompt_cache.take(placement, prompt, self.now)


def test_a_conversation_stays_in_its_slot() -> None:
    server = Server(2)
    slots = {who: server.asked(turn(who)).slot for who in ("alice", "bob")}

    for number in (2, 3):
        for who in ("bob", "alice"):
            placement = server.asked(turn(who, number))
            assert (placement.match, placement.slot) == (Match.CONTINUES, slots[who])
            assert placement.known == turn(who, number - 1).size


def at(clock: str, who: str, number: int = 1) -> Prompt:
    """Write a turn behind a system prompt with a clock in it."""
    said = [f"user\nI am {who}.", *(f"assistant\n{n} " + "blah " * 99 for n in range(1, number))]
    return Prompt([f"{SYSTEM}It is {clock}.\n{SYSTEM}", *said], opening=1)


def test_a_conversation_behind_another_front_takes_the_place_of_its_own_and_of_no_other() -> None:
    server = Server(3)
    alice = server.asked(at("09:00", "alice"))
    bob = server.asked(at("09:01", "bob"))

    placement = server.asked(at("09:02", "alice", 2))

    assert (placement.match, placement.slot) == (Match.CHANGED, alice.slot)
    assert 0 < placement.known < len(SYSTEM) + 6
    assert server.asked(at("09:01", "bob", 2)).slot is bob.slot
    assert server.asked(at("09:03", "carol")).match is Match.EMPTY


def test_who_shares_a_system_prompt_gets_an_empty_slot_and_evicts_nobody() -> None:
    server = Server(2)
    first = server.asked(turn("alice"))

    second = server.asked(turn("bob"))

    assert second.match is Match.EMPTY
    assert second.slot is not first.slot


def test_without_an_empty_slot_the_conversation_unused_for_longest_goes() -> None:
    server = Server(2)
    alice = server.asked(turn("alice"))
    server.asked(turn("bob"))

    placement = server.asked(turn("carol"))

    assert (placement.match, placement.slot) == (Match.EVICTS, alice.slot)


def test_a_short_conversation_goes_rather_than_a_long_one() -> None:
    server = Server(2)
    server.asked(turn("alice", 9))
    bob = server.asked(turn("bob"))

    assert server.asked(turn("carol")).slot is bob.slot


def test_a_conversation_that_nobody_went_on_with_leaves_its_slot_empty() -> None:
    server = Server(1, stale_after=60.0)
    server.asked(turn("alice"))
    server.now += 60.0

    assert server.prompt_cache.placement(turn("bob"), server.now).match is Match.EMPTY  # type: ignore[union-attr]
    assert server.asked(turn("alice", 2)).match is Match.CONTINUES


def test_a_busy_slot_is_nobodys_and_without_a_free_one_nothing_fits() -> None:
    server = Server(1)
    server.took(turn("alice"))

    assert server.prompt_cache.placement(turn("alice", 2), 5.0) is None


def test_a_slot_that_is_busy_with_somebody_elses_request_is_left_alone() -> None:
    server = Server(2)

    placement = server.prompt_cache.placement(turn("alice"), 1.0, elsewhere={0})

    assert placement is not None
    assert placement.slot is server.prompt_cache.slots[1]


def test_an_evicted_conversation_is_held_once_an_answer_has_shown_it() -> None:
    server = Server(1)
    server.prompt_cache.correct(Rank(0, turn("alice", 4).size), held=False)
    server.asked(turn("alice", 4))
    server.asked(turn("bob", 4))
    back = server.prompt_cache.placement(turn("alice", 5), server.now)
    assert back is not None
    assert back.match is Match.EVICTS

    assert back.rank is not None
    server.prompt_cache.correct(back.rank, held=True)

    assert server.asked(turn("alice", 5)).match is Match.REMEMBERED


def test_what_repeats_half_of_a_slot_s_prompt_leaves_nothing_of_it() -> None:
    server = Server(1)
    server.asked(turn("alice"))
    server.asked(turn("bob"))

    back = server.prompt_cache.placement(turn("alice", 2), server.now)
    assert back is not None
    assert back.match is Match.EVICTS
    assert back.rank is None


def test_a_prompt_in_memory_gets_a_slot_for_which_the_server_looks_there() -> None:
    server = Server(2)
    server.asked(turn("alice", 4))
    for who in ("bob", "carol"):
        server.asked(turn(who, 4))
    short = server.asked(turn("dave"))

    back = server.prompt_cache.placement(turn("alice", 5), server.now)
    assert back is not None
    assert back.match is Match.REMEMBERED
    assert back.slot is not short.slot


def test_a_slot_for_which_the_server_looks_for_nothing_says_nothing_of_its_memory() -> None:
    server = Server(1)
    server.asked(turn("alice", 4))
    server.asked(turn("bob", 4))
    server.asked(turn("dave"))

    back = server.took(turn("alice", 5))

    assert back.prediction.possible
    assert back.prediction.rank is None


def past(server: Server, prompt: Prompt) -> Placement:
    """Look for a prompt that a server without slots may hold."""
    placement = server.prompt_cache.placement(prompt, 9.0)
    assert placement is not None
    return placement


def crowded(lost: int, shown: int | None = None) -> Server:
    """Ask a server without slots for eight prompts; it has held one of them, and lost another."""
    server = Server(None)
    for number in range(8):
        server.asked(turn(f"guest {number}"))
    ranks = {number: past(server, turn(f"guest {number}", 2)).rank for number in range(8)}
    for one, held in ((shown, True), (lost, False)):
        if one is not None:
            rank = ranks[one]
            assert rank is not None
            server.prompt_cache.correct(rank, held=held)
    return server


def test_a_server_that_lost_a_prompt_and_has_shown_none_is_believed_to_hold_half_at_most() -> None:
    server = crowded(lost=0)

    believed = [past(server, turn(f"guest {n}", 2)).match is Match.REMEMBERED for n in range(8)]
    assert believed == [False] * 5 + [True] * 3


def test_a_server_s_memory_is_believed_to_end_between_what_it_held_and_what_it_lost() -> None:
    server = crowded(shown=7, lost=0)

    believed = [past(server, turn(f"guest {n}", 2)).match is Match.REMEMBERED for n in range(8)]
    assert believed == [False] * 2 + [True] * 6


def test_what_was_lost_is_not_there_again_when_others_have_come_back() -> None:
    server = crowded(shown=7, lost=0)
    for number in range(4, 8):
        server.prompt_cache._forget_past(turn(f"guest {number}").base)

    assert past(server, turn("guest 1", 2)).match is Match.EMPTY
    assert past(server, turn("guest 2", 2)).match is Match.REMEMBERED


def test_a_prompt_larger_than_all_the_memory_pushes_out_everything_else() -> None:
    server = crowded(shown=7, lost=0)
    assert past(server, turn("guest 7", 2)).match is Match.REMEMBERED

    server.asked(turn("giant", 60))
    server.asked(turn("guest"))

    assert past(server, turn("guest 7", 2)).match is Match.EMPTY


def test_a_server_without_slots_is_believed_to_hold_the_last_prompts() -> None:
    server = Server(None)
    server.asked(turn("alice"))
    for number in range(GUESSED_DEPTH - 1):
        server.asked(turn(f"guest {number}"))
    assert server.prompt_cache.placement(turn("alice", 2), 99.0).match is Match.REMEMBERED  # type: ignore[union-attr]

    server.asked(turn("one more"))

    assert server.prompt_cache.placement(turn("alice", 2), 99.0).match is Match.EMPTY  # type: ignore[union-attr]


def test_a_server_that_was_away_holds_nothing() -> None:
    server = Server(1)
    server.asked(turn("alice"))

    server.prompt_cache.forget()

    assert server.asked(turn("alice", 2)).match is Match.EMPTY


def test_fewer_slots_than_before_keep_what_the_first_ones_hold() -> None:
    server = Server(2)
    server.asked(turn("alice"))

    server.prompt_cache.resize(1)

    assert server.asked(turn("alice", 2)).match is Match.CONTINUES
    assert len(server.prompt_cache.slots) == 1


def test_a_prompt_that_no_server_worked_on_leaves_things_as_they_were() -> None:
    server = Server(2)
    alice = server.asked(turn("alice")).slot
    bob = server.asked(turn("bob")).slot

    assert server.asked(turn("carol"), worked=False).match is Match.EVICTS

    assert server.asked(turn("alice", 2)).slot is alice
    placement = server.asked(turn("bob", 2))
    assert (placement.match, placement.slot) == (Match.CONTINUES, bob)


def test_a_prompt_that_no_server_worked_on_is_not_remembered() -> None:
    server = Server(None)
    server.asked(turn("alice"), worked=False)

    assert server.asked(turn("alice")).match is Match.EMPTY


def test_a_prompt_that_another_has_put_out_before_it_was_worked_on_is_not_remembered() -> None:
    server = Server(1)
    server.asked(turn("alice", 5))
    placement = server.prompt_cache.placement(turn("bob", 5), server.now)
    assert placement is not None
    bob = server.prompt_cache.take(placement, turn("bob", 5), server.now)
    server.prompt_cache.take(placement, turn("carol", 5), server.now)  # by another replica
    bob.end(server.now, worked=False)

    assert not server.prompt_cache.holds(turn("bob", 6))
    assert server.prompt_cache.holds(turn("alice", 6))


def test_what_was_forgotten_meanwhile_does_not_come_back() -> None:
    server = Server(1)
    server.asked(turn("alice"))
    occupancy = server.took(turn("bob"))

    server.prompt_cache.forget()
    occupancy.end(server.now, worked=False)

    assert server.asked(turn("alice", 2)).match is Match.EMPTY


@given(
    st.sampled_from([None, 1, 3]),
    st.lists(
        st.tuples(
            st.sampled_from("abcde"), st.integers(1, 3), st.booleans(), st.none() | st.just(2)
        )
    ),
)
def test_the_index_finds_the_slot_or_cache_that_holds_what_is_continued_and_forgets_with_it(
    slots: int | None, turns: list[tuple[str, int, bool, int | None]]
) -> None:
    index: PrefixIndex[Slot | PromptCache] = PrefixIndex()
    prompt_cache = PromptCache(slots, stale_after=180.0, index=index)
    for now, (who, number, worked, resized) in enumerate(turns):
        prompt = turn(who, number)
        placement = prompt_cache.placement(prompt, now)
        assert placement is not None
        if placement.match is Match.CONTINUES:
            assert placement.slot in index.find(prompt)
        if placement.match is Match.REMEMBERED:
            assert prompt_cache in index.find(prompt)
        prompt_cache.take(placement, prompt, now).end(now, worked=worked)
        if resized is not None and slots is not None:
            prompt_cache.resize(resized)

    prompt_cache.forget()

    assert not len(index)


def test_a_slot_at_work_is_not_given_to_another_when_slots_go_and_come_back() -> None:
    server = Server(2)
    server.took(turn("alice"))
    bob = server.took(turn("bob"))

    server.prompt_cache.resize(1)
    assert server.prompt_cache.placement(turn("carol"), 9.0) is None
    server.prompt_cache.resize(2)

    assert server.prompt_cache.placement(turn("carol"), 9.0) is None
    bob.end(9.0, worked=True)
    assert server.asked(turn("bob", 2)).match is Match.CONTINUES


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_no_slot_is_ever_taken_twice_and_conversations_that_have_slots_keep_them(
    slots: int, steps: list[tuple[int, bool]]
) -> None:
    server = Server(slots)
    turns = dict.fromkeys(range(6), 0)
    at_work: dict[int, Occupancy] = {}
    for person, starts in steps:
        if starts and person not in at_work and len(at_work) < slots:
            turns[person] += 1
            at_work[person] = server.took(turn(str(person), turns[person]))
        elif not starts and person in at_work:
            at_work.pop(person).end(server.now, worked=True)
        busy = [occupancy.slot for occupancy in at_work.values()]
        assert len(set(map(id, busy))) == len(busy)
        assert server.prompt_cache.occupied(server.now) <= slots
