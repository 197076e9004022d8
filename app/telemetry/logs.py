"""Logs: structlog for everything, one line for each request."""

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor

import app
from app.routing.backend import Backend, Status
from app.routing.catalog import some_of
from app.routing.ledger import Lease
from app.settings.listening import bracketed
from app.telemetry.log_writer import writer_to
from app.telemetry.record import Record
from app.telemetry.response_reader import ResponseReader

LONGEST_PATH: Final = 256
"""How much of a path the log has, in characters."""

LONGEST_PART: Final = 24
"""Longest part of a path that is written, in characters: what is longer may be a secret."""

LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


def configure(
    log_format: LogFormat,
    level: LogLevel,
    stream: TextIO | None = None,
) -> None:
    """Send our logs and the libraries' to one stream, standard error unless another is named.

    `auto` is made for reading on a terminal, and JSON otherwise.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    console = log_format == "console" or (log_format == "auto" and terminal)
    output = cast("TextIO", writer_to(stream, _tell_dropped))
    shared: list[Processor] = [
        structlog.stdlib.ExtraAdder(),
        _Stamp(),
    ]
    rendered: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=terminal)]
        if console
        else [
            structlog.processors.format_exc_info,
            _json,
        ]
    )
    structlog.configure(
        processors=[
            _Stamp(),
            *rendered,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(output),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _plain,
                *rendered,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.getLevelNamesMapping()[level.upper()], logging.WARNING))


failures: Final[Counter[str]] = Counter()
"""Rounds of periodic tasks that failed since the start, by task."""


def task_failed(task: str, **about: object) -> None:
    """Log and count the exception that ended one round of a periodic task; it goes on.

    `about` says what the round was for. To be called where the exception is handled.
    """
    failures[task] += 1
    structlog.get_logger(__name__).exception("task.failed", task=task, **about)


def _tell_dropped(lines: int) -> None:
    structlog.get_logger(__name__).warning("log.dropped", lines=lines)


def front_kept(client: str, text: int, character: int) -> None:
    """Log that a conversation's system text goes out as it was at first, and where it differs."""
    log = structlog.get_logger(__name__)
    log.info("prompt.front_kept", client=client, text=text, character=character)


def doubtful(doubts: Iterable[str]) -> None:
    """Log which settings may be meant otherwise."""
    for doubt in doubts:
        structlog.get_logger(__name__).warning("settings.doubtful", doubt=doubt)


def listening(address: str, page: str, servers: list[str], gpu_backend: str) -> None:
    """Log that clients may come, where the page is, and whether the load of GPUs is known."""
    structlog.get_logger(__name__).info(
        "balancer.listening",
        version=app.__version__,
        address=address,
        page=page,
        servers=servers,
        gpus="unknown" if gpu_backend == "none" else gpu_backend,
    )


def cannot_listen(host: str, port: int, error: str) -> None:
    """Log why no client can come, and which settings change that."""
    structlog.get_logger(__name__).error(
        "balancer.cannot_listen",
        address=f"{bracketed(host)}:{port}",
        error=error,
        hint="another port is set by BALANCER_PORT, another address by BALANCER_HOST",
    )


def worker_ended(number: int, status: int) -> None:
    """Log that one of several processes has ended, which nobody has asked for."""
    structlog.get_logger(__name__).error("worker.ended", number=number, status=status)


def stopping(in_flight: int) -> None:
    """Log that it is to stop, and how many requests are waited for."""
    structlog.get_logger(__name__).info("balancer.stopping", in_flight=in_flight)


def stopped() -> None:
    """Log that all is over."""
    structlog.get_logger(__name__).info("balancer.stopped")


def server_introduced(backend: Backend) -> None:
    """Log what a server is and has, once it was asked for the first time."""
    if backend.status != "invalid":
        structlog.get_logger(__name__).info("server.up", **_about(backend), before="unknown")


def _about(backend: Backend) -> dict[str, object]:
    """Say what is known of a server."""
    report = backend.self_report
    about = {
        "address": backend.server.model_base,
        "kind": None if report is None else report.kind.name,
        "slots": None if report is None else report.slots,
        "models": some_of(sorted(backend.models or ())) or None,
    }
    known = {name: value for name, value in about.items() if value is not None}
    return {"server": backend.server.name, **known}


def open_to_all(host: str) -> None:
    """Log that nobody needs a key at an address that others can reach, and what ends that."""
    structlog.get_logger(__name__).warning(
        "keys.none",
        host=host,
        hint="anybody there may use every model: set BALANCER_API_KEYS (`llama-balancer key new "
        "NAME` prints the line) and BALANCER_ADMIN_KEY, or BALANCER_INSECURE=true",
    )


def unverified(server: str) -> None:
    """Log that a server's certificate is not checked."""
    structlog.get_logger(__name__).warning(
        "server.unverified",
        server=server,
        hint="whoever is between can read and change everything: set its ca_file instead",
    )


def wrong_key(address: str, tries: int) -> None:
    """Log that an address has shown wrong keys, and how many since the last such line."""
    structlog.get_logger(__name__).warning("key.wrong", address=address, tries=tries)


def server_changed(backend: Backend, before: Status) -> None:
    """Log that a server's status has changed, from `before`; not that it is merely busy."""
    changed = backend.changed
    if changed is None:
        return
    log = structlog.get_logger(__name__)
    about = {"server": backend.server.name, "reason": changed.reason}
    match changed.status:
        case "invalid":
            log.warning("server.down", **about, error="; ".join(backend.faults.values()) or None)
        case "ejected":
            until = backend.ejection.until
            seconds = 0.0 if until is None else until - changed.at
            log.warning("server.ejected", **about, seconds=round(seconds, 1))
        case "loading":
            log.info("server.loading", **about)
        case "draining":
            log.info("server.draining", **about)
        case "asleep":
            log.info("server.asleep", **about)
        case "waking":
            log.info("server.waking", **about)
        case _ if before not in ("idle", "busy"):
            log.info("server.up", **_about(backend), reason=changed.reason, before=before)


written: Final[dict[str, int]] = {}
"""Lines written since the start, by level."""


_CONTROLS: Final = {code: f"\\u{code:04x}" for code in range(127, 160)}
"""Control characters that JSON may leave as they are, and terminals do not."""

_MILLISECONDS: Final = [f".{number:03d}Z" for number in range(1000)]


class _Stamp:
    """Adds level and time, as structlog's own processors do, writing each second only once."""

    def __init__(self) -> None:
        self._second = -1
        self._written = ""

    def __call__(self, _: object, level: str, event: EventDict) -> EventDict:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        written[level] = written.get(level, 0) + 1
        event["level"] = level
        event["timestamp"] = self._written + _MILLISECONDS[int((now - second) * 1000)]
        return event


def _json(_: object, __: str, event: EventDict) -> str:
    """Render as structlog's own processor does, in a third of its time."""
    try:
        text = orjson.dumps(event, default=repr).decode()
        return text if text.isascii() else text.translate(_CONTROLS)
    except TypeError:  # a number beyond 64 bits, half a surrogate pair
        return json.dumps(event, default=repr)


class RequestLog:
    """Writes one line for each finished request: client, model, server, durations.

    Never a body and never a header: prompts and keys stay out of logs. Its lines go through
    the configured processors, but not through structlog's bound logger, which costs more
    than they do: each of its layers copies all facts.
    """

    def __init__(self) -> None:
        configured = structlog.get_config()
        # A request's line holds no exception.
        self._processors = [
            p for p in configured["processors"] if p is not structlog.processors.format_exc_info
        ]
        self._lines = configured["logger_factory"]()
        log = structlog.get_logger().bind()
        self._enabled = {
            "info": log.is_enabled_for(logging.INFO),
            "warning": log.is_enabled_for(logging.WARNING),
        }

    def finished(self, record: Record) -> None:
        """Write a request's line; trouble with a server is a warning."""
        trouble = record.outcome in ("upstream_error", "timeout", None)
        level = "warning" if trouble else "info"
        if self._enabled[level]:
            line: Any = _facts(record)
            for process in self._processors:
                line = process(None, level, line)
            self._lines.msg(line)


def _plain(_: object, __: str, event: EventDict) -> EventDict:
    """Drop the second copy of a line that uvicorn adds for terminals."""
    event.pop("color_message", None)
    return event


def _facts(record: Record) -> dict[str, object]:
    """Return what a request's line says; durations in milliseconds."""
    facts: dict[str, object] = {
        "event": "request",
        "id": record.id,
        "endpoint": record.endpoint,
        "status": record.status,
        "outcome": record.outcome or "internal_error",
        "client": record.address,
        "duration_ms": _ms(record.ended - record.started),
    }
    _tell_who(record, facts)
    if record.model:
        facts["model"] = record.model[:256]
        facts["queue_wait_ms"] = _ms(record.waited)
        if record.stream:
            facts["stream"] = True
    if record.server:
        facts["server"] = record.server
        facts["reason"] = record.reason
        if record.instance != record.model:
            facts["instance"] = record.instance[:256]
        if record.lease is not None:
            _tell_lease(record.lease, facts)
    if record.failures:
        facts["unreachable"] = record.failures
    if record.first_byte is not None and record.sent is not None:
        facts["first_byte_ms"] = _ms(record.first_byte - record.sent)
    if record.response is not None:
        _tell_tokens(record, record.response, facts)
    if record.error:
        facts["error"] = record.error
    return facts


def _tell_tokens(record: Record, response: ResponseReader, facts: dict[str, object]) -> None:
    usage, first = response.usage(), response.first_token
    if first is not None:
        facts["first_token_ms"] = _ms(first - record.started)
    if usage is None:
        return
    facts["prompt_tokens"] = usage.prompt
    if usage.cached is not None:
        facts["cached_tokens"] = usage.cached
    facts["completion_tokens"] = usage.completion
    if first is not None and usage.completion > 1 and record.ended > first:
        facts["tokens_per_second"] = round((usage.completion - 1) / (record.ended - first), 1)


def _tell_lease(lease: Lease, facts: dict[str, object]) -> None:
    if lease.expected is not None:
        facts["expected_first_token_ms"] = _ms(lease.expected)
    if lease.considered:
        costs = {one.server: _ms(one.read + one.others) for one in lease.considered}
        facts["considered_ms"] = costs
    if lease.load:
        facts["load_ms"] = _ms(lease.load)
    if lease.held:
        facts["held_ms"] = _ms(lease.held)
    if lease.files is not None and lease.files.seconds:
        facts["slot_files_ms"] = _ms(lease.files.seconds)
    if (change := lease.change) is not None:
        facts["prompt_change"] = change.kind
        facts["changed_message"] = change.message
        facts["changed_character"] = change.character


def _without_tokens(path: str) -> str:
    """Write a path for people; parts as long as keys and ids are left out."""
    parts = [part if len(part) <= LONGEST_PART else "…" for part in path.split("/")]
    return "/".join(parts)[:LONGEST_PATH]


def _tell_who(record: Record, facts: dict[str, object]) -> None:
    if record.path != record.endpoint:
        facts["path"] = _without_tokens(record.path)
    if record.key is not None:
        facts["key"] = record.key.name
    if record.asked_model:
        facts["asked_model"] = record.asked_model
    if record.session:
        facts["session"] = record.session
    if record.username is not None:
        facts["username"] = record.username
    if record.priority != "normal":
        facts["priority"] = record.priority


def _ms(seconds: float) -> float:
    return int(seconds * 10_000 + 0.5) / 10  # what round() does takes three times as long


class _Lines:
    """Writes lines to a stream; nobody minds if it is gone.

    Lines of one turn of the event loop are written together: a system call for each would
    cost more than all that leads to it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str] = []

    def __call__(self, *_: Any) -> "_Lines":
        return self

    def msg(self, message: str) -> None:
        self._lines.append(message)
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self._flush)
            except RuntimeError:  # before the loop runs, after it, or in another thread
                self._flush()

    def __getattr__(self, level: str) -> Callable[[str], None]:
        """Write what structlog has for any level."""
        return self.msg

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        with contextlib.suppress(OSError, ValueError):
            self._stream.write("\n".join([*lines, ""]))
            self._stream.flush()
