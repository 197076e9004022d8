"""Addresses of stores."""

import pytest

from app.settings import Settings
from app.store.client import Sentinels, sentinels

WHOLE = "redis+sentinel://me:pass%40word@10.0.0.1:26379,10.0.0.2/mymaster/3"


@pytest.mark.parametrize(
    ("url", "read"),
    [
        (
            WHOLE,
            Sentinels([("10.0.0.1", 26379), ("10.0.0.2", 26379)], "mymaster", 3, "me", "pass@word"),
        ),
        (
            "redis+sentinel://sentinel:5000/primary",
            Sentinels([("sentinel", 5000)], "primary", 0, None, None),
        ),
    ],
)
def test_an_address_of_sentinels_is_read(url: str, read: Sentinels) -> None:
    assert Settings(servers={}, valkey_url=url).valkey_url is not None  # type: ignore[arg-type]
    assert sentinels(url) == read


@pytest.mark.parametrize(
    "url", ["redis+sentinel://10.0.0.1:26379", "redis+sentinel://10.0.0.1:x/mymaster"]
)
def test_an_address_without_a_service_or_a_port_says_how_it_is_written(url: str) -> None:
    with pytest.raises(ValueError, match="HOST:26379/SERVICE"):
        Settings(servers={}, valkey_url=url)  # type: ignore[arg-type]
