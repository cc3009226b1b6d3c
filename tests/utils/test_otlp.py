"""Tests of answering OTLP exports in an application of one's own."""

import asyncio
import gzip
from typing import Any

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentlightning.utils.otlp import handle_otlp_export

PROTOBUF = {"content-type": "application/x-protobuf"}


def make_app(received: list[ExportTraceServiceRequest] | None) -> Starlette:
    async def take(message: ExportTraceServiceRequest) -> None:
        assert received is not None
        received.append(message)

    async def traces(request: Request) -> Response:
        return await handle_otlp_export(
            request,
            ExportTraceServiceRequest,
            ExportTraceServiceResponse,
            None if received is None else take,
            "traces",
        )

    return Starlette(routes=[Route("/v1/traces", traces, methods=["POST"])])


def post(app: Starlette, content: bytes, headers: dict[str, str]) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
            return await http.post("/v1/traces", content=content, headers=headers)

    return asyncio.run(call())


def some_export() -> bytes:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().schema_url = "here"
    return request.SerializeToString()


def test_the_callback_gets_the_message():
    """An export is decoded, unpacked if need be, and handed over."""
    received: list[Any] = []
    app = make_app(received)
    assert post(app, some_export(), PROTOBUF).status_code == 200
    packed = {**PROTOBUF, "content-encoding": "gzip"}
    assert post(app, gzip.compress(some_export()), packed).status_code == 200
    assert [message.resource_spans[0].schema_url for message in received] == ["here", "here"]


def test_without_a_callback_exports_are_accepted():
    """A signal that nobody wants is answered all the same."""
    answer = post(make_app(None), some_export(), PROTOBUF)
    assert (answer.status_code, answer.content) == (200, b"")


def test_wrong_bodies_are_refused():
    """Broken gzip and broken protobuf are 400."""
    app = make_app([])
    for content, headers in (
        (b"plain", {**PROTOBUF, "content-encoding": "gzip"}),
        (b"\xff\xff", PROTOBUF),
        (b"{}", {"content-type": "text/html"}),
    ):
        assert post(app, content, headers).status_code == 400
