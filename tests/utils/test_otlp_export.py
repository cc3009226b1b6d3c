"""Tests of sending a store's spans elsewhere: to another store, and to a backend that fails."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from agentlightning.errors import ConfigurationError, StoreError
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import Event, Link, OtelResource, Span, SpanContext, TraceStatus
from agentlightning.utils import otlp_export
from agentlightning.utils.otlp import export_otlp


class Backend:
    """Records what it takes, and answers the first requests with the statuses that it was given."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self.rejects = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), text="not now")
        self.requests.append(ExportTraceServiceRequest.FromString(await request.read()))
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = self.rejects
        answer.partial_success.error_message = "too odd" if self.rejects else ""
        return web.Response(body=answer.SerializeToString(), content_type="application/x-protobuf")


@asynccontextmanager
async def running(backend: Backend) -> AsyncIterator[Backend]:
    app = web.Application()
    app.router.add_post("/v1/traces", backend.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    backend.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield backend
    finally:
        await runner.cleanup()


def rich_span(rollout_id: str, attempt_id: str) -> Span:
    """Return a span with everything that a span can hold."""
    context = SpanContext(
        trace_id="ab" * 16, span_id="cd" * 8, is_remote=False, trace_state={"k": "v"}
    )
    span = Span.from_attributes(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        attributes={
            "text": "é", "yes": True, "n": -3, "x": 1.5, "ids": [1, 2], "empty": [], "no": ["a"],
            "odd": math.inf,
        },
        trace_id=context.trace_id,
        span_id="12" * 8,
        parent_id="34" * 8,
        name="rich",
        start_time=1_700_000_000.25,
        end_time=1_700_000_001.5,
        resource=OtelResource(attributes={"service.name": "s"}, schema_url="u"),
        status=TraceStatus(status_code="ERROR", description="broke"),
    )  # fmt: skip
    span.events = [Event(name="e", attributes={"a": 1}, timestamp=1_700_000_000.5)]
    span.links = [Link(context=context, attributes={"b": "c"})]
    return span


async def test_another_store_has_the_same_spans():
    """What is exported to a store's own OTLP route is there as it was, except for odd numbers."""
    source, target = InMemoryLightningStore(), InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(target, port=0)
    await server.start()
    try:
        for store in (source, target):
            await store.start_rollout("task", rollout_id="ro-same")
            await store.start_attempt("ro-same", attempt_id="at-same")
        await source.add_many_spans([rich_span("ro-same", "at-same")])
        report = await export_otlp(source, server.endpoint)
        assert (report.rollouts, report.spans, report.rejected) == (1, 1, 0)
        (sent,) = await source.query_spans("ro-same")
        (got,) = await target.query_spans("ro-same")
        expected = sent.model_dump()
        added = {key: got.attributes.pop(key) for key in list(got.attributes) if "light" in key}
        assert added["agentlightning.rollout_id"] == "ro-same"
        expected["attributes"]["odd"] = "Infinity"
        assert got.model_dump() == expected
        again = await export_otlp(source, server.endpoint)
        assert (again.spans, len(await target.query_spans("ro-same"))) == (1, 1)
    finally:
        await server.stop()
        await target.close()
        await source.close()


async def test_batches_pauses_and_refusals(monkeypatch: pytest.MonkeyPatch):
    """Spans go in batches of the wanted size, gzipped; a failing backend is tried again."""
    monkeypatch.setattr(otlp_export, "FIRST_PAUSE_SECONDS", 0.01)
    store = InMemoryLightningStore()
    claims = [await store.start_rollout(i) for i in range(3)]
    for claim in claims:
        ids = {"rollout_id": claim.rollout_id, "attempt_id": claim.attempt.attempt_id}
        await store.add_many_spans([Span.from_attributes(attributes={}, **ids) for _ in range(4)])
    async with running(Backend(503, 429)) as backend:
        seen: list[int] = []
        report = await export_otlp(
            store,
            backend.url,
            headers={"x-key": "secret"},
            batch_size=5,
            on_progress=lambda r: seen.append(r.spans),
        )
        assert seen == [5, 10, 12]
        assert (report.rollouts, report.spans, report.rejected) == (3, 12, 0)
        sizes = [
            sum(len(scope.spans) for group in r.resource_spans for scope in group.scope_spans)
            for r in backend.requests
        ]
        assert sizes == [5, 5, 2]
        assert backend.headers[0]["x-key"] == "secret"
        assert backend.headers[0]["Content-Encoding"] == "gzip"
        backend.rejects = 1
        some = await export_otlp(store, backend.url, rollout_ids=[claims[0].rollout_id])
        assert (some.spans, some.rejected, some.messages) == (3, 1, ["too odd"])
        backend.statuses = [400]
        with pytest.raises(StoreError, match="400"):
            await export_otlp(store, backend.url)
        backend.statuses = [503] * 50
        with pytest.raises(StoreError, match="503"):
            await export_otlp(store, backend.url, outage_seconds=0.05)
        url = backend.url
    with pytest.raises(StoreError, match="takes no spans"):
        await export_otlp(store, url, outage_seconds=0.02)
    await store.close()


async def test_wrong_endpoints_are_refused():
    """An endpoint without a scheme is refused at once."""
    store = InMemoryLightningStore()
    with pytest.raises(ConfigurationError, match="OTLP address"):
        await export_otlp(store, "localhost:4318")
    await store.close()


def test_ids_of_other_forms_are_replaced_by_stable_ones():
    """A trace id that OpenTelemetry could not hold gets one that is always the same."""
    from agentlightning.utils.otlp import encode_spans

    span = Span.from_attributes(attributes={}, trace_id="my trace", span_id="one")
    ids = set()
    for _ in range(2):
        (proto,) = encode_spans([span]).resource_spans[0].scope_spans[0].spans
        assert (len(proto.trace_id), len(proto.span_id)) == (16, 8)
        ids.add((proto.trace_id, proto.span_id))
    assert len(ids) == 1
