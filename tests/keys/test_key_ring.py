import base64
import re
import string
import time
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.keys.allowance import Allowance
from app.keys.key_ring import ADMIN, Key, KeyRing, hash_of

SECRET = "sk-alice-0123456789"
TEXTS = st.text(string.ascii_letters + string.digits, min_size=16)


def ring(*, admin_key: str | None = None) -> KeyRing:
    return KeyRing([(SECRET, Key("alice"))], admin_key)


def name_of(header: bytes, value: bytes, keys: KeyRing | None = None) -> str | None:
    key = (keys or ring()).find({header: value})
    return None if key is None else key.name


def basic(text: str) -> bytes:
    return b"Basic " + base64.b64encode(text.encode())


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"authorization", f"Bearer {SECRET}".encode()),
        (b"authorization", f"bearer   {SECRET}".encode()),
        (b"x-api-key", SECRET.encode()),
        (b"authorization", basic(f"anybody:{SECRET}")),
        (b"authorization", basic(f":{SECRET}")),
    ],
)
def test_a_key_is_read_in_each_way_that_clients_can_send_it(header: bytes, value: bytes) -> None:
    assert name_of(header, value) == "alice"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"authorization", SECRET.encode()),
        (b"authorization", b"Bearer "),
        (b"authorization", b"Bearer \xff\xfe"),
        (b"authorization", b"Basic not!base64"),
        (b"authorization", basic(SECRET)),
        (b"authorization", f"Digest {SECRET}".encode()),
        (b"authorization", f"Bearer {hash_of(SECRET)}".encode()),
        (b"x-api-key", b""),
        (b"x-api-key", SECRET[:-1].encode()),
        (b"cookie", SECRET.encode()),
    ],
)
def test_what_is_no_key_finds_none(header: bytes, value: bytes) -> None:
    assert name_of(header, value) is None


def test_a_key_is_found_beside_a_header_that_a_proxy_in_front_has_written() -> None:
    fields = {b"authorization": basic("proxy:password"), b"x-api-key": SECRET.encode()}
    found = ring().find(fields)

    assert found is not None
    assert found.name == "alice"


def test_what_a_key_has_done_goes_on_counting_when_the_keys_change() -> None:
    keys = KeyRing([(SECRET, Key("alice", allowance=Allowance(request_max=1)))])
    before = keys.find({b"x-api-key": SECRET.encode()})
    assert before is not None
    before.allowance.enter(0.0)

    keys.replace([("another-0123456789", Key("alice", allowance=Allowance(request_max=2)))])

    after = keys.find({b"x-api-key": b"another-0123456789"})
    assert after is not None
    assert [after.allowance.enter(0.0) for _ in range(2)] == [None, 0.0]
    before.allowance.leave(0.0)
    assert after.allowance.enter(0.0) is None


def test_one_key_that_is_written_in_many_long_ways_fills_no_memory() -> None:
    keys = KeyRing([(SECRET, Key("alice"))])

    for spaces in range(300, 400):
        written = b"Bearer" + b" " * spaces + SECRET.encode()
        assert name_of(b"authorization", written, keys) == "alice"

    assert keys._known == {}


def test_a_key_that_has_expired_opens_nothing() -> None:
    keys = KeyRing([(SECRET, Key("alice", expires=time.time() - 1))])

    assert name_of(b"x-api-key", SECRET.encode(), keys) is None


@given(TEXTS, TEXTS)
def test_a_key_opens_for_itself_alone_written_as_a_hash_or_not(held: str, shown: str) -> None:
    for written in (held, hash_of(held)):
        keys = KeyRing([(written, Key("alice"))])
        assert name_of(b"x-api-key", shown.encode(), keys) == ("alice" if held == shown else None)


def test_a_hash_is_what_sha256sum_prints() -> None:
    assert hash_of(SECRET) == f"sha256:{sha256(SECRET.encode()).hexdigest()}"
    assert hash_of(hash_of(SECRET)) == hash_of(SECRET)


def test_an_admin_key_alone_asks_nobody_for_a_key() -> None:
    keys = KeyRing([], "the-admin-key")

    assert not keys.required
    assert name_of(b"x-api-key", b"the-admin-key", keys) == ADMIN


def test_the_admin_key_is_told_from_others() -> None:
    keys = ring(admin_key="the-admin-key")
    admin, other = (
        keys.find({b"x-api-key": b"the-admin-key"}),
        keys.find({b"x-api-key": SECRET.encode()}),
    )

    assert keys.required
    assert admin is not None
    assert admin.admin
    assert other is not None
    assert not other.admin


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ([], "anything", True),
        (["qwen3.*"], "qwen3:4b", True),
        (["qwen3"], "qwen3:4b", False),
        (["a", "b"], "b", True),
        (["a", "b"], "", False),
    ],
)
def test_a_key_allows_models_by_their_whole_names(
    patterns: list[str], model: str, allowed: bool
) -> None:
    assert Key("alice", map(re.compile, patterns)).allows(model) is allowed
