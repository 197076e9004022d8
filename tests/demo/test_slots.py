from hypothesis import given
from hypothesis import strategies as st

from app.demo.prose import tokens_of
from app.demo.slots import Load, Slots


def test_the_slot_that_knows_most_of_the_prompt_is_chosen() -> None:
    slots = Slots(2)
    for prompt in ("abcdefgh", "abxyzuvw"):
        slot, _ = slots.take(prompt)
        slot.tokens = list(prompt)
    for slot in slots:
        slots.give_back(slot, now=1.0)

    slot, cached = slots.take("abxyz123")

    assert (slot.number, cached) == (1, 5)


def test_a_prompt_that_no_slot_knows_takes_the_slot_unused_for_longest() -> None:
    slots = Slots(3)
    taken = [slots.take("a")[0] for _ in range(3)]
    for slot, now in zip(taken, (3.0, 1.0, 2.0), strict=True):
        slot.tokens = list("same start")
        slots.give_back(slot, now)

    slot, cached = slots.take("something else altogether")

    assert (slot.number, cached) == (1, 1)


def test_a_slot_forgets_what_does_not_begin_the_new_prompt() -> None:
    slots = Slots(1)
    slot, _ = slots.take("abcdef")
    slot.tokens = list("abcdef")
    slots.give_back(slot, now=1.0)

    slot, cached = slots.take("abcxyz")

    assert (cached, slot.tokens) == (3, list("abc"))


@given(st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=8))
def test_what_is_reused_begins_the_prompt_and_never_is_all_of_it(prompts: list[str]) -> None:
    slots = Slots(2)
    for now, prompt in enumerate(prompts):
        slot, cached = slots.take(prompt)
        assert cached < len(prompt)
        assert slot.tokens == list(prompt[:cached])
        slot.tokens = list(prompt)
        slots.give_back(slot, now)


def test_the_load_is_the_peak_of_the_last_seconds() -> None:
    load = Load(seconds=5.0)
    load.change(+1, now=10.0)
    load.change(+1, now=11.0)
    load.change(-1, now=12.0)

    assert [load.peak(now) for now in (11.5, 16.9, 17.0)] == [2, 2, 1]


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text


def test_the_slot_that_is_wanted_is_taken_whatever_others_know() -> None:
    slots = Slots(2)
    slot, _ = slots.take("abcdef")
    slot.tokens = list("abcdef")
    slots.give_back(slot, now=1.0)

    assert slots.take("abcdef", wanted=1)[0].number == 1
    assert not slots.free(1)
    assert slots.free(0)


def test_a_prompt_that_left_its_slot_comes_back_from_ram() -> None:
    slots = Slots(1, ram=6)
    for prompt in ("abcdef", "uvwxyz"):
        slot, _ = slots.take(prompt)
        slot.tokens = list(prompt)
        slots.give_back(slot, now=1.0)

    _, cached = slots.take("abcdefgh")

    assert cached == 6


def test_a_prompt_in_ram_is_not_loaded_for_a_few_words_that_all_begin_with() -> None:
    slots = Slots(2, ram=1000)
    slot, _ = slots.take("a" + "b" * 99, wanted=0)
    slot.tokens = list("a" + "b" * 99)
    slots.give_back(slot, now=1.0)
    slots.give_back(slots.take("c" * 50, wanted=0)[0], now=2.0)  # the first one is in RAM now
    slots.take("a" + "d" * 50, wanted=1)

    assert slots.take("a" + "b" * 99, wanted=0)[1] == 99
