"""Whatever stands in a variable or a file of keys is taken, or told without secrets."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings import Settings, validated
from app.settings.key_file import read_key_file
from app.settings.variables import Variables

SECRET = "s3cr3t-0123456789"
PART = "s3cr3t"

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=12), inner, max_size=3)
    ),
    max_leaves=8,
)
TEXTS = st.one_of(st.text(max_size=60), VALUES.map(json.dumps))
NAMES = st.sampled_from(sorted(Settings.model_fields))
KEYS = st.dictionaries(
    st.sampled_from(["key", "models", "request_max", "tokens_per_minute", "priority", "expires"]),
    st.one_of(VALUES, st.just(SECRET), st.just(SECRET + "\n")),
)


WRITTEN = st.tuples(
    st.dictionaries(st.text(max_size=8), st.one_of(KEYS, VALUES, st.just(SECRET)), max_size=3),
    st.integers(0, 30),
).map(lambda pair: json.dumps(pair[0])[: -pair[1] or None])
"""Keys, as people write them: some end too early."""


def mistakes(read: Callable[[], object]) -> str:
    """Return what is told where something cannot be read; other errors come through."""
    try:
        read()
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Python's own, about patterns such as [[a]
@given(st.dictionaries(NAMES, TEXTS, max_size=4))
def test_any_text_is_a_setting_or_a_mistake(values: dict[str, str]) -> None:
    told = mistakes(lambda: validated(values))

    assert all(line.startswith("BALANCER_") for line in told.splitlines())


@given(st.text(alphabet="ABCDEGKLRSV_0123 é", max_size=30), TEXTS)
def test_any_variable_has_its_place_or_is_a_mistake(name: str, text: str) -> None:
    variables = Variables()
    variables.put(("servers", name, "addr"), f"BALANCER_SERVERS__{name}__ADDR", text)

    told = mistakes(lambda: validated(variables.values, variables.written))

    assert all(line.startswith("BALANCER_SERVERS") for line in told.splitlines())


@given(WRITTEN)
def test_no_mistake_about_keys_tells_a_key(written: str) -> None:
    assert PART not in mistakes(lambda: validated({"api_keys": written}))


@given(st.one_of(st.binary(max_size=80), WRITTEN.map(str.encode)))
def test_a_file_of_keys_is_read_or_told_without_them(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.json"
        path.write_bytes(content)
        assert PART not in mistakes(lambda: read_key_file(path))
