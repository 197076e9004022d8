"""Traces by OpenTelemetry: a span for each request, with GenAI's names.

An extra: `opentelemetry` is imported here alone, and this file only where traces are asked for.
Where spans go, and which of them, its own variables say (`OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`).

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

import os
import threading
import time
from collections.abc import Mapping
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.apis.endpoints import api_of
from app.telemetry import logs
from app.telemetry.record import STAGES, Record, Trace

NAME: Final = "llama-balancer"

FLUSH: Final = 2.0
"""For how long the last spans are tried to be sent when the program ends, in seconds."""

Attributes = dict[str, str | int | float | bool]


class Tracing:
    """Begins traces, or goes on with those of clients, and sends spans in a thread of its own."""

    def __init__(self, version: str) -> None:
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            resource=_resource(version), id_generator=self._ids, shutdown_on_exit=False
        )
        self._exporter = OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(NAME, version)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, fields: Mapping[bytes, bytes]) -> Trace | None:
        """Take a request's W3C context, or begin one, and write it for the server.

        https://www.w3.org/TR/trace-context/
        """
        try:
            return self._begin(fields)
        except Exception:  # noqa: BLE001 - logged and counted: no request fails for its trace
            logs.task_failed("telemetry")
            return None

    def _begin(self, fields: Mapping[bytes, bytes]) -> Trace:
        carrier = {
            name.decode(): fields[name].decode("latin-1")
            for name in (b"traceparent", b"tracestate")
            if name in fields
        }
        context = self._propagator.extract(carrier, Context())
        parent = get_current_span(context).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else self._ids.random.generate_trace_id()
        span_id = self._ids.random.generate_span_id()
        sampled = self._provider.sampler.should_sample(context, trace_id, NAME).decision
        flags = int(sampled is Decision.RECORD_AND_SAMPLE)
        written = f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
        return Trace(written.encode(), context, trace_id, span_id)

    def finished(self, record: Record) -> None:
        """Send a span of a request that has ended."""
        if record.trace is None:
            return
        _, context, self._ids.trace_id, self._ids.span_id = record.trace
        since = time.time_ns() - time.monotonic_ns()
        operation = _operation(record.endpoint)
        span = self._tracer.start_span(
            f"{operation} {record.model}" if operation and record.model else record.endpoint,
            context,
            SpanKind.SERVER,
            _attributes(record, operation),
            start_time=since + _ns(record.started),
        )
        response = record.response
        if response is not None and response.first_token is not None:
            span.add_event("first_token", timestamp=since + _ns(response.first_token))
        if record.outcome != "success":
            span.set_attribute("error.type", record.outcome or "internal_error")
            if record.outcome not in ("client_error", "client_disconnect"):
                span.set_status(Status(StatusCode.ERROR, record.error or None))
        span.end(since + _ns(record.ended))

    def close(self) -> None:
        """Send the last spans. It blocks, for `FLUSH` at the most."""
        given_up = threading.Timer(FLUSH, self._exporter.shutdown)  # it ends all its tries
        given_up.start()
        self._provider.shutdown()
        given_up.cancel()


class _GivenIds(IdGenerator):
    """Has a span bear the ids that the server got before there was one."""

    def __init__(self) -> None:
        self.random = RandomIdGenerator()
        self.trace_id = self.span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


def _operation(endpoint: str) -> str | None:
    """Return GenAI's word for what is asked for; None for what no model does."""
    api = api_of(endpoint)
    if "embed" in endpoint:
        return "embeddings"
    if api.prompt is None:
        return None
    return "text_completion" if api.prompt == "plain" else "chat"


def _resource(version: str) -> Resource:
    """Describe this program; its variables may name it otherwise."""
    attributes: Attributes = {"service.version": version}
    named = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not named and not os.environ.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = NAME
    return Resource.create(attributes)


def _attributes(record: Record, operation: str | None) -> Attributes:
    """Describe a request, without its words."""
    usage = record.spent()
    phases = zip(STAGES, record.phases(), strict=True)
    found: dict[str, str | int | float | bool | None] = {
        "url.path": record.endpoint,
        "client.address": record.address,
        "http.response.status_code": record.status or None,
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "anthropic" if record.endpoint == "/v1/messages" else "openai",
        "gen_ai.request.model": record.asked_model or record.model or None,
        "gen_ai.response.model": record.instance or None,
        "gen_ai.conversation.id": record.session or None,
        "llama_balancer.request_id": record.id,
        "llama_balancer.server": record.server or None,
        "llama_balancer.reason": record.reason or None,
        "llama_balancer.key": None if record.key is None else record.key.name,
        "llama_balancer.failures": ", ".join(record.failures) or None,
        **{f"llama_balancer.{name}_seconds": value for name, value in phases},
    }
    if usage is not None:
        found["gen_ai.usage.input_tokens"] = usage.prompt
        found["gen_ai.usage.output_tokens"] = usage.completion
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cached
    if operation is None:
        del found["gen_ai.provider.name"]
    return {name: value for name, value in found.items() if value is not None}


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
