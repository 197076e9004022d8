"""What routing needs to know of a kind of model server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of model server, as data: `upstream.introspection` has one file for each."""

    name: str
    names_slots: bool = False
    """Whether a request may name the slot that it shall go to."""
    saves_slots: bool = False
    """Whether what a slot holds can be saved into a file, and restored from it."""
    cache_block: int = 0
    """Its cache holds whole blocks of so many tokens: a prompt's last one may be missing."""
    asks_usage: bool = False
    """Whether its streams tell their usage only where a request asks, and by `stream_options`."""
    denies_cached_tokens: bool = False
    """Whether a count of 0 cached tokens says nothing, because it tells 0 whatever was cached."""
    swaps: bool = False
    """Whether it has one model in memory, unless it has shown that there is room for more."""
    reloads: bool = False
    """Whether it loads a model again for a request that wants another length of its context."""
