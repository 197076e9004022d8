"""Which names of a model list mean the same model."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.routing.instances import instances, model_of

NAMES = st.frozensets(
    st.builds("{}{}".format, st.sampled_from(["m", "n"]), st.sampled_from(["", "-1", "-2", "-3"]))
)


@pytest.mark.parametrize(
    ("model", "listed", "found"),
    [
        ("m", {"m", "m-2", "m-3", "m-10", "m-x"}, ("m", "m-2", "m-3")),
        ("gemma", {"gemma", "gemma-3"}, ("gemma",)),
        ("gpt", {"gpt-4"}, ()),
        ("m-2", {"m", "m-2"}, ("m-2",)),
        ("tiny", {"tiny:latest", "tiny-2"}, ("tiny:latest", "tiny-2")),
    ],
)
def test_instances_are_numbered_from_2_without_a_gap(
    model: str, listed: set[str], found: tuple[str, ...]
) -> None:
    assert instances(model, listed) == found


def test_no_name_is_an_instance_where_that_is_switched_off() -> None:
    listed = {"sql-lora", "sql-lora-2"}

    assert instances("sql-lora", listed, numbered=False) == ("sql-lora",)
    assert model_of("sql-lora-2", listed, numbered=False) == "sql-lora-2"


def test_an_instance_is_told_from_a_model_that_is_named_so() -> None:
    assert model_of("m-2", {"m", "m-2"}) == "m"
    assert model_of("m-3", {"m", "m-3"}) == "m-3"
    assert model_of("m-02", {"m", "m-02"}) == "m-02"
    assert model_of("phi-4", {"phi-4"}) == "phi-4"


@given(NAMES)
def test_a_name_is_an_instance_of_the_model_that_it_is_an_instance_for(
    listed: frozenset[str],
) -> None:
    for name, model in product(listed, listed):
        assert (model_of(name, listed) == model) == (
            name in instances(model, listed) and model_of(model, listed) == model
        )
