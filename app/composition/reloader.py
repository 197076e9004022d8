"""Taking in other settings while the balancer serves."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import structlog

from app.composition.handler import build
from app.composition.runtime import Runtime
from app.keys.key_ring import KeyRing
from app.settings import Settings, SettingsError, variable
from app.settings.doubts import doubts
from app.telemetry import logs

FIXED: Final = (
    "host",
    "port",
    "join",
    "join_name",
    "traces",
    "valkey_url",
    "valkey_prefix",
    "on_store_failure",
    "tls_cert",
    "tls_key",
    "log_format",
    "log_level",
    "workers",
    "drain_delay",
    "shutdown_timeout",
    "state_dir",
)
"""Settings that hold until the end of the process."""

log: Final = structlog.get_logger(__name__)


class Reloader:
    """Serves by the settings that were taken in last.

    `load` reads them anew, or raises SettingsError: then all stays as it is. A reload is one
    step of the event loop, before which requests go by the old settings and after which by the
    new ones. `stopping` ends the monitor's streams.
    """

    def __init__(
        self, runtime: Runtime, load: Callable[[], Settings], stopping: asyncio.Event
    ) -> None:
        self._runtime = runtime
        self._load = load
        self._stopping = stopping
        self._one_at_a_time = asyncio.Lock()
        self.handler, self.control = build(runtime.roster.written, runtime, stopping, self.reload)
        """What serves requests, and the control endpoints."""

    async def reload(self) -> dict[str, object]:
        """Read the settings, take them in unless there is a mistake, and tell what came of it."""
        async with self._one_at_a_time:
            runtime, reloads = self._runtime, self._runtime.reloads
            before = runtime.roster.written
            try:
                # It takes a while: files are read, and patterns are looked at for traps.
                settings, keys, waiting = await asyncio.to_thread(self._read, before)
            except SettingsError as error:
                reloads.refused(error.mistakes)
                log.warning("settings.refused", mistakes=error.mistakes)
                return reloads.told()
            changed = [*changes(before, settings)]
            if changed:
                handler, self.control = await asyncio.to_thread(
                    build, settings, runtime, self._stopping, self.reload
                )
                runtime.change(settings, keys)
                self.handler.become(handler)
                logs.doubtful(doubts(settings))
            reloads.took(changed, waiting)
            log.info("settings.taken_in", changed=changed, needs_restart=waiting)
            return reloads.told()

    def _read(self, before: Settings) -> tuple[Settings, KeyRing, list[str]]:
        """Read the settings; those that cannot change yet stay as they are, and are named."""
        settings = self._load()
        stay = {name: getattr(before, name) for name in FIXED}
        waiting = [variable(name) for name in FIXED if getattr(settings, name) != stay[name]]
        settings = settings.model_copy(update=stay)
        return settings, settings.key_ring(), waiting


def changes(before: Settings, after: Settings) -> Iterator[str]:
    """Tell which settings are otherwise, a line for each; of secrets no more than their names."""
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if old == new:
            continue
        if name in ("servers", "models", "aliases", "model_fallbacks"):
            yield f"{variable(name)}: {', '.join(_differences(old, new))}"
        else:
            yield variable(name)


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    yield from (f"{name} is new" for name in new if name not in old)
    yield from (f"{name} is gone" for name in old if name not in new)
    changed = [name for name in new if name in old and old[name] != new[name]]
    yield from (f"{name} has changed" for name in changed)
    if not changed and old.keys() == new.keys():
        yield "the order has changed"
