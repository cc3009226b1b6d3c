"""Tests of taking OpenTelemetry exports: a real exporter, JSON by hand, and wrong input."""

import gzip
import json
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, Status, StatusCode, Tracer

from agentlightning.store.client_server import LightningStoreServer
from agentlightning.types import AttemptedRollout
from agentlightning.utils.otlp_exporter import LightningStoreOTLPExporter
from tests.store.http.conftest import JSON

PROTOBUF = {"content-type": "application/x-protobuf"}


def resource_of(claim: AttemptedRollout) -> Resource:
    return Resource(
        {
            "agentlightning.rollout_id": claim.rollout_id,
            "agentlightning.attempt_id": claim.attempt.attempt_id,
            "service.name": "tests",
        }
    )


def trace_something(tracer: Tracer) -> None:
    """Make a parent and a child span with everything that a span can hold."""
    with (
        tracer.start_as_current_span("parent") as parent,
        tracer.start_as_current_span("child", links=[Link(parent.get_span_context())]) as span,
    ):
        span.set_attributes({"text": "a", "ids": [1, 2], "ok": True, "score": 0.5})
        span.add_event("happened", {"why": "x"})
        span.set_status(Status(StatusCode.ERROR, "broke"))


def json_export(claim: AttemptedRollout, **changes: Any) -> dict[str, Any]:
    """Return an export request of one span as OTLP/JSON spells it."""
    span = {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": "eee19b7ec3c1b174",
        "parentSpanId": "eee19b7ec3c1b173",
        "name": "by hand",
        "kind": 2,
        "startTimeUnixNano": "1700000000000000000",
        "endTimeUnixNano": 1700000001500000000,
        "status": {"code": 1},
        "attributes": [
            {"key": "agentlightning.rollout_id", "value": {"stringValue": claim.rollout_id}},
            {"key": "agentlightning.attempt_id",
             "value": {"stringValue": claim.attempt.attempt_id}},
            {"key": "big", "value": {"intValue": "9007199254740993"}},
        ],
        "unknownField": 1,
        **changes,
    }  # fmt: skip
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_a_real_exporter(
    server: LightningStoreServer, claim: AttemptedRollout, compression: Compression
):
    """Spans of OpenTelemetry's own exporter arrive complete, plain and gzipped."""
    exporter = OTLPSpanExporter(server.otlp_traces_endpoint(), compression=compression)
    provider = TracerProvider(resource=resource_of(claim))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace_something(provider.get_tracer("tests"))
    provider.shutdown()
    child, parent = await server.query_spans(claim.rollout_id)
    assert (child.name, parent.name) == ("child", "parent")
    assert (child.sequence_id, parent.sequence_id) == (1, 2)
    assert child.parent_id == parent.span_id
    assert child.parent is not None
    assert child.parent.span_id == parent.span_id
    assert child.trace_id == parent.trace_id
    assert child.attributes == {"text": "a", "ids": [1, 2], "ok": True, "score": 0.5}
    assert (child.status.status_code, child.status.description) == ("ERROR", "broke")
    assert [(event.name, event.attributes) for event in child.events] == [
        ("happened", {"why": "x"})
    ]
    assert child.links[0].context.span_id == parent.span_id
    assert child.resource.attributes["service.name"] == "tests"
    assert child.start_time is not None
    assert child.end_time is not None
    assert abs(child.start_time - claim.start_time) < 60
    attempt = await server.get_latest_attempt(claim.rollout_id)
    assert attempt is not None
    assert attempt.status == "running"


async def test_our_exporter_follows_the_attempt(
    server: LightningStoreServer, claim: AttemptedRollout
):
    """The store's exporter sends to the attempt it was told, and nowhere while disabled."""
    exporter = LightningStoreOTLPExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")
    trace_something(tracer)
    exporter.enable_store_otlp(
        server.otlp_traces_endpoint(), claim.rollout_id, claim.attempt.attempt_id
    )
    assert exporter.endpoint == server.otlp_traces_endpoint()
    assert (exporter.rollout_id, exporter.attempt_id) == (
        claim.rollout_id,
        claim.attempt.attempt_id,
    )
    trace_something(tracer)
    exporter.disable_store_otlp()
    assert exporter.endpoint is exporter.rollout_id is exporter.attempt_id is None
    trace_something(tracer)
    assert [s.name for s in await server.query_spans(claim.rollout_id)] == ["child", "parent"]
    other = await server.start_rollout("other")
    exporter.enable_store_otlp(
        server.otlp_traces_endpoint(), other.rollout_id, other.attempt.attempt_id
    )
    trace_something(tracer)
    provider.shutdown()
    assert len(await server.query_spans(other.rollout_id)) == 2
    assert len(await server.query_spans(claim.rollout_id)) == 2


async def test_json_by_hand(server: LightningStoreServer, claim: AttemptedRollout):
    """OTLP/JSON with hexadecimal ids and numbers as text is taken, and answered in JSON."""
    answer = httpx.post(server.otlp_traces_endpoint(), json=json_export(claim))
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["content-type"] == "application/json"
    (span,) = await server.query_spans(claim.rollout_id)
    assert (span.trace_id, span.span_id, span.parent_id) == (
        "5b8efff798038103d269b633813fc60c",
        "eee19b7ec3c1b174",
        "eee19b7ec3c1b173",
    )
    assert (span.start_time, span.end_time) == (1700000000.0, 1700000001.5)
    assert span.attributes["big"] == 9007199254740993
    assert span.status.status_code == "OK"


async def test_rejected_spans_are_counted(server: LightningStoreServer, claim: AttemptedRollout):
    """Spans without or with unknown ids are counted in the answer; the others are stored."""
    mixed = json_export(claim)
    spans = mixed["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans.append({**spans[0], "spanId": "eee19b7ec3c1b175", "attributes": []})
    spans.append({**spans[0], "spanId": "ee"})
    lost = json.loads(json.dumps(spans[0]).replace(claim.rollout_id, "ro-none"))
    spans.append({**lost, "spanId": "eee19b7ec3c1b176"})
    answer = httpx.post(server.otlp_traces_endpoint(), json=mixed)
    assert answer.status_code == 200
    partial = answer.json()["partialSuccess"]
    assert partial["rejectedSpans"] == "3"
    assert "ro-none" in partial["errorMessage"]
    assert len(await server.query_spans(claim.rollout_id)) == 1
    protobuf = httpx.post(
        server.otlp_traces_endpoint(),
        content=_as_protobuf(lost),
        headers=PROTOBUF,
    )
    response = ExportTraceServiceResponse.FromString(protobuf.content)
    assert response.partial_success.rejected_spans == 1


def _as_protobuf(span: dict[str, Any]) -> bytes:
    request = ExportTraceServiceRequest()
    made = request.resource_spans.add().scope_spans.add().spans.add()
    made.trace_id, made.span_id = bytes.fromhex(span["traceId"]), bytes.fromhex(span["spanId"])
    for attribute in span["attributes"][:2]:
        pair = made.attributes.add()
        pair.key, pair.value.string_value = attribute["key"], attribute["value"]["stringValue"]
    return request.SerializeToString()


def test_an_empty_export_is_fine(server: LightningStoreServer):
    """An export without spans succeeds, with an empty answer."""
    answer = httpx.post(server.otlp_traces_endpoint(), headers=PROTOBUF)
    assert (answer.status_code, answer.content) == (200, b"")


def test_answers_are_packed_when_asked(server: LightningStoreServer, claim: AttemptedRollout):
    """A client that accepts gzip gets a gzipped answer, which httpx unpacks here."""
    body = json.dumps(json_export(claim, spanId="")).encode()
    headers = {**JSON, "accept-encoding": "gzip", "content-encoding": "gzip"}
    answer = httpx.post(server.otlp_traces_endpoint(), content=gzip.compress(body), headers=headers)
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.json()["partialSuccess"]["rejectedSpans"] == "1"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\xff\xff\xff", "application/x-protobuf"),
        (b"{", "application/json"),
        (b"[1]", "application/json"),
        (b'{"resourceSpans": 3}', "application/json"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "zz"}]}]}]}',
         "application/json"),
        (b'{"a":' * 150 + b"1" + b"}" * 150, "application/json"),
        (b"x", "text/plain"),
        (b"x", ""),
    ],
)  # fmt: skip
def test_wrong_exports(server: LightningStoreServer, content: bytes, kind: str):
    """What is no export is 400 with a google.rpc.Status in the request's own encoding."""
    answer = httpx.post(
        server.otlp_traces_endpoint(), content=content, headers={"content-type": kind}
    )
    assert answer.status_code == 400
    if kind == "application/json":
        assert answer.json()["code"] == 3
        assert answer.json()["message"]
    else:
        assert answer.headers["content-type"] == "application/x-protobuf"
        assert answer.content[:3] == b"\x08\x03\x12"


async def test_a_failing_store_asks_exporters_to_try_again():
    """When the store is unavailable the exporter is told so, and keeps its spans."""
    from agentlightning.errors import StoreUnavailableError
    from agentlightning.store.base import LightningStore, LightningStoreCapabilities

    class Down(LightningStore):
        @property
        def capabilities(self) -> LightningStoreCapabilities:
            return LightningStoreCapabilities(thread_safe=True, async_safe=True)

        async def add_many_spans(self, spans: Any) -> Any:
            raise StoreUnavailableError("the database is away")

    down = LightningStoreServer(Down(), port=0)
    await down.start()
    try:
        request = ExportTraceServiceRequest.FromString(
            _as_protobuf(
                {
                    "traceId": "5b8efff798038103d269b633813fc60c",
                    "spanId": "eee19b7ec3c1b174",
                    "attributes": [
                        {"key": "agentlightning.rollout_id", "value": {"stringValue": "r"}},
                        {"key": "agentlightning.attempt_id", "value": {"stringValue": "a"}},
                    ],
                }
            )
        )
        url = down.otlp_traces_endpoint()
        async with httpx.AsyncClient() as http:
            answer = await http.post(url, content=request.SerializeToString(), headers=PROTOBUF)
        assert answer.status_code == 503
        assert b"the database is away" in answer.content
    finally:
        await down.stop()
