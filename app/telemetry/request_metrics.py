"""What is counted of finished requests."""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, get_args

from app.telemetry.instrument import SECONDS, Count, Instruments, Series
from app.telemetry.record import STAGES, Fault, Record, Rejection
from app.telemetry.token_metrics import TokenMetrics, Tokens

NO_EDGES: Final = ()

OVERHEAD: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)

MOST_SETS: Final = 1000
"""How many sets of labels are remembered; there are fewer unless servers list new models."""

OTHER: Final = "other"
"""The label of a model that no server lists."""

PHASES: Final = ("queued", "waiting", "streaming")
"""When a client may leave: before its request is sent, before a response, during it."""


class Upstream(NamedTuple):
    """What a request is counted on that was sent to a server."""

    sent_bytes: Count
    response_bytes: Count
    responses: Count
    first_byte: Series
    duration: Series


class Meters(NamedTuple):
    """What requests with one set of labels are counted on: looked up once."""

    model: str
    requests: Count
    duration: Series
    queue_wait: Series | None
    decisions: Count | None
    upstream: Upstream | None
    tokens: Tokens | None
    phases: tuple[Count, Count, Count, Count] | None


class RequestMetrics:
    """Counts finished requests. `model_of` gives a request's model label, from a closed list."""

    def __init__(self, instruments: Instruments, model_of: Callable[[Record], str]) -> None:
        self._model_of = model_of
        self._known: dict[tuple[object, ...], Meters] = {}
        self._tokens = TokenMetrics(instruments)
        counter, histogram = instruments.counter, instruments.histogram
        self._requests = counter(
            "requests",
            "Finished client requests.",
            *("endpoint", "model", "stream", "outcome"),
        )
        self._duration = histogram(
            "request_duration_seconds",
            "From the request's arrival to the last byte of its response.",
            SECONDS,
            "model",
        )
        self._queue_wait = histogram(
            "queue_wait_seconds",
            "How long a model request waited in the queue; 0 where a server was free, none if it "
            "was turned away at once.",
            SECONDS,
            "model",
        )
        self._decisions = counter(
            "routing_decisions",
            "Requests by the server that they went to, and why.",
            *("server", "reason"),
        )
        self._phases = counter(
            "request_seconds",
            "Where the time of model requests went: queue, load of the model, prompt, answer.",
            *("model", "phase"),
        )
        self._rejections = counter(
            "routing_rejections",
            "Requests that were sent to no server, and why.",
            *("model", "reason"),
        )
        self._overhead = histogram(
            "overhead_seconds",
            "The balancer's own time before a request was sent, connecting included and the "
            "queue excluded.",
            OVERHEAD,
        ).labels()
        self._sent_bytes = counter(
            "request_body_bytes", "Bytes of bodies sent to a server.", "server"
        )
        self._response_bytes = counter(
            "response_body_bytes", "Bytes of a server's response bodies.", "server"
        )
        self._responses = counter(
            "upstream_responses", "Responses of a server by class of status.", "server", "code"
        )
        self._errors = counter(
            "upstream_errors", "Requests that a server failed, and how.", "server", "reason"
        )
        self._retries = counter(
            "retries", "Attempts elsewhere after a failure at this server.", "server", "reason"
        )
        self._failovers = counter(
            "failovers",
            "Requests served by another server than the first choice.",
            *("from_server", "to_server"),
        )
        self._exhausted = counter(
            "retries_exhausted", "Requests that failed after the last attempt.", "model"
        )
        self._first_byte = histogram(
            "time_to_first_byte_seconds",
            "From sending a request to a server to the first byte of its response: the mean alone.",
            NO_EDGES,
            "server",
        )
        self._upstream_duration = histogram(
            "upstream_duration_seconds",
            "From sending a request to a server to the end of its response.",
            SECONDS,
            "server",
        )
        self._disconnects = counter(
            "client_disconnects",
            "Clients that left before the end of their response, and when.",
            *("model", "phase"),
        )

    def expect(self, servers: Iterable[str]) -> None:
        """Begin at 0 for what may go wrong with a server: a rise from nothing is no rise."""
        for server in servers:
            for fault in get_args(Fault):
                self._errors.labels(server, fault)
            for code in ("2xx", "4xx", "5xx"):
                self._responses.labels(server, code)
            self._retries.labels(server, "connect")

    def _expect_trouble(self, model: str) -> None:
        for rejection in get_args(Rejection):
            self._rejections.labels(model, rejection)
        for phase in PHASES:
            self._disconnects.labels(model, phase)

    def finished(self, record: Record) -> None:
        """Count a request."""
        key = (
            record.endpoint,
            record.model,
            record.stream,
            record.outcome,
            record.server,
            record.instance,
            record.reason,
            record.status,
            record.rejection,
            record.first_byte is None,
        )
        meters = self._known.get(key) or self._meters(record, key)
        meters.requests.value += 1
        meters.duration.observe(record.ended - record.started, record.id)
        if meters.queue_wait is not None:
            meters.queue_wait.observe(record.waited, record.id)
        if meters.decisions is not None:
            meters.decisions.value += 1
        if meters.phases is not None:
            queue, load, prompt, answer = meters.phases
            waited, loaded, read, answered = record.phases()
            queue.value += waited
            load.value += loaded
            prompt.value += read
            answer.value += answered
        if meters.upstream is not None:
            self._count_upstream(record, meters.upstream)
        if meters.tokens is not None:
            self._tokens.count(record, meters.model, meters.tokens)
        if record.failures or record.outcome != "success":
            self._count_trouble(record, meters.model)

    def _count_upstream(self, record: Record, upstream: Upstream) -> None:
        response, sent, first_byte = record.response, record.sent, record.first_byte
        if response is None or sent is None or first_byte is None:
            return
        if record.ready:
            self._overhead.observe(max(0.0, sent - record.ready - record.waited))
        upstream.sent_bytes.value += record.size
        upstream.response_bytes.value += response.size
        upstream.responses.value += 1
        upstream.first_byte.observe(first_byte - sent)
        upstream.duration.observe(record.ended - sent)

    def _count_trouble(self, record: Record, model: str) -> None:
        attempts = list(zip(record.failures, record.faults, strict=True))
        for server, fault in attempts:
            self._errors.labels(server, fault).value += 1
        # After each failure another server was tried, unless it was the last one of all.
        gave_up = record.server in record.failures
        for server, fault in attempts[:-1] if gave_up else attempts:
            self._retries.labels(server, fault).value += 1
        if gave_up:
            self._exhausted.labels(model).value += 1
        elif attempts and record.server:
            self._failovers.labels(attempts[0][0], record.server).value += 1
        if record.fault is not None and not gave_up:
            self._errors.labels(record.server, record.fault).value += 1
        elif record.status >= 500 and record.response is not None:
            self._errors.labels(record.server, "status_5xx").value += 1
        if record.rejection is not None:
            self._rejections.labels(model, record.rejection).value += 1
        if record.outcome == "client_disconnect":
            self._disconnects.labels(model, _phase(record)).value += 1

    def _meters(self, record: Record, key: tuple[object, ...]) -> Meters:
        model, server = self._model_of(record), record.server
        stream = "true" if record.stream else "false"
        outcome = record.outcome or "internal_error"
        responded = record.first_byte is not None
        waits = record.model != "" and record.rejection not in (
            "queue_full",
            "buffer_full",
            "key_limit",
            "no_route",
        )
        if record.model:
            self._expect_trouble(model)
        meters = Meters(
            model,
            self._requests.labels(record.endpoint, model, stream, outcome),
            self._duration.labels(model),
            self._queue_wait.labels(model) if waits else None,
            self._decisions.labels(server, record.reason) if record.reason else None,
            self._upstream_of(record) if responded else None,
            self._tokens.of(server, model)
            if responded and record.model and record.status == 200
            else None,
            self._phases_of(model) if waits else None,
        )
        if len(self._known) < MOST_SETS and model != OTHER:
            self._known[key] = meters
        return meters

    def _phases_of(self, model: str) -> tuple[Count, Count, Count, Count]:
        queue, load, prompt, answer = (self._phases.labels(model, phase) for phase in STAGES)
        return queue, load, prompt, answer

    def _upstream_of(self, record: Record) -> Upstream:
        server = record.server
        return Upstream(
            self._sent_bytes.labels(server),
            self._response_bytes.labels(server),
            self._responses.labels(server, f"{record.status // 100}xx"),
            self._first_byte.labels(server),
            self._upstream_duration.labels(server),
        )


def _phase(record: Record) -> str:
    queued, waiting, streaming = PHASES
    if record.sent is None:
        return queued
    return waiting if record.first_byte is None else streaming
