"""Each request is a span of OpenTelemetry, in its client's trace, and the server's parent."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.fakes.model_host import ModelHost
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, chat, chunk, ok, post

pytestmark = pytest.mark.anyio

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"traceparent: 00-{TRACE}-{PARENT}-01".encode()
UNSAMPLED = f"traceparent: 00-{TRACE}-{PARENT}-00".encode()
STATE = b"tracestate: vendor=1"
EVENTS = (
    b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 90, "completion_tokens": 4,'
    b' "prompt_tokens_details": {"cached_tokens": 80}}}\n\n'
    b"data: [DONE]\n\n"
)


class Collector:
    """Takes spans as a collector of OpenTelemetry does (OTLP over HTTP)."""

    def __init__(self) -> None:
        self.host = ModelHost(self._take)
        self.spans: list[Span] = []
        self.services: set[str] = set()

    async def _take(self, visit: Visit, message: Message) -> bytes | None:
        assert message.start.startswith("POST /v1/traces ")
        for resource in ExportTraceServiceRequest.FromString(message.body).resource_spans:
            about = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            self.services.add(about["service.name"])
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return ok(b"", b"content-type: application/x-protobuf")


def told(span: Span) -> dict[str, object]:
    """Give a span's attributes."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "")
        for pair in span.attributes
    }


async def stream(visit: Visit, message: Message) -> bytes | None:
    return SSE + chunk(EVENTS) + b"0\r\n\r\n"


async def broken(visit: Visit, message: Message) -> bytes | None:
    return None


@contextlib.asynccontextmanager
async def traced(
    monkeypatch: pytest.MonkeyPatch, host: ModelHost
) -> AsyncIterator[tuple[Running, Collector]]:
    """Balance one server, and collect the spans."""
    collector = Collector()
    async with collector.host.running() as port, host.running():
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with balancing({"PC1": host}, traces=True) as balancer:
            yield balancer, collector


async def test_a_request_is_a_span_with_genais_names(monkeypatch: pytest.MonkeyPatch) -> None:
    host = ModelHost(stream)
    async with traced(monkeypatch, host) as (balancer, collector):
        await balancer.ask(chat("m", stream=True))
        await balancer.until(lambda: collector.spans)

    [span] = collector.spans
    facts = told(span)
    assert collector.services == {"llama-balancer"}
    assert (span.name, span.kind) == ("chat m", Span.SPAN_KIND_SERVER)
    assert span.end_time_unix_nano > span.start_time_unix_nano
    assert [event.name for event in span.events] == ["first_token"]
    assert facts["gen_ai.operation.name"] == "chat"
    assert facts["gen_ai.request.model"] == facts["gen_ai.response.model"] == "m"
    assert facts["gen_ai.usage.input_tokens"] == 90
    assert facts["gen_ai.usage.cache_read.input_tokens"] == 80
    assert facts["gen_ai.usage.output_tokens"] == 4
    assert facts["llama_balancer.server"] == "PC1"
    assert facts["http.response.status_code"] == 200


async def test_a_request_goes_on_with_its_clients_trace_and_hands_it_to_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = ModelHost()
    async with traced(monkeypatch, host) as (balancer, collector):
        await balancer.ask(post(b'{"model": "m"}', b"/v1/chat/completions", SAMPLED, STATE))
        await balancer.until(lambda: collector.spans)

    [span], [message] = collector.spans, host.seen
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert message["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert [name for name, _ in message.headers].count("traceparent") == 1
    assert message["tracestate"] == "vendor=1"


async def test_a_request_without_a_trace_begins_one(monkeypatch: pytest.MonkeyPatch) -> None:
    host = ModelHost()
    async with traced(monkeypatch, host) as (balancer, collector):
        await balancer.ask(post(b'{"model": "m"}', b"/v1/chat/completions", b"traceparent: no"))
        await balancer.until(lambda: collector.spans)

    [span], [message] = collector.spans, host.seen
    assert span.parent_span_id == b""
    assert message["traceparent"] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"


async def test_what_a_client_does_not_sample_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    host = ModelHost()
    async with traced(monkeypatch, host) as (balancer, collector):
        await balancer.ask(post(b'{"model": "m"}', b"/v1/chat/completions", UNSAMPLED))
        await balancer.ask(chat("m"))
        await balancer.until(lambda: collector.spans)

    assert host.seen[0]["traceparent"].endswith("-00")
    assert len(collector.spans) == 1


async def test_a_request_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch, ModelHost(broken)) as (balancer, collector):
        await balancer.ask(chat("m"))
        await balancer.until(lambda: collector.spans)

    [span] = collector.spans
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert told(span)["error.type"] == "upstream_error"


async def test_a_collector_that_is_away_costs_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    host = ModelHost()
    async with host.running(), balancing({"PC1": host}, traces=True) as balancer:
        assert (await balancer.ask(chat("m"))).status == 200


async def test_without_traces_a_clients_context_passes_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = ModelHost()
    async with host.running(), balancing({"PC1": host}) as balancer:
        await balancer.ask(post(b'{"model": "m"}', b"/v1/chat/completions", SAMPLED, STATE))

    assert host.seen[0]["traceparent"] == SAMPLED.decode().partition(": ")[2]
