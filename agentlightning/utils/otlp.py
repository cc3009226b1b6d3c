"""OTLP over HTTP: answering export requests in protobuf and JSON, plain or gzip.

Which signal is received and what is done with it is the callback's business.
"""

from __future__ import annotations

import base64
import gzip
import logging
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import orjson

from agentlightning.utils.otlp_encode import encode_spans
from agentlightning.utils.otlp_export import OtlpExportReport, export_otlp
from agentlightning.utils.otlp_exporter import LightningStoreOTLPExporter
from agentlightning.utils.otlp_spans import ReadSpans, read_spans

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
    )
    from starlette.requests import Request
    from starlette.responses import Response

    from agentlightning.types.tracer import Span

__all__ = [
    "LightningStoreOTLPExporter",
    "OtlpAnswer",
    "OtlpBodyError",
    "OtlpExportReport",
    "ReadSpans",
    "answer_export",
    "encode_spans",
    "export_otlp",
    "handle_otlp_export",
    "read_spans",
    "spans_from_proto",
    "status_body",
]

logger = logging.getLogger(__name__)

PROTOBUF_TYPE: Final = "application/x-protobuf"
JSON_TYPE: Final = "application/json"
INVALID_ARGUMENT: Final = 3
"""Code of a malformed request in google.rpc.Status."""

_ID_FIELDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})
_MAX_DEPTH: Final = 100

RequestT = TypeVar("RequestT", bound="Message")
ResponseT = TypeVar("ResponseT", bound="Message")


class OtlpBodyError(ValueError):
    """The body of an export request cannot be read."""


@dataclass(frozen=True, slots=True)
class OtlpAnswer:
    """An HTTP answer to an export request."""

    body: bytes
    status: int
    content_type: str
    headers: dict[str, str] = field(default_factory=dict[str, str])


async def spans_from_proto(
    request: ExportTraceServiceRequest,
    sequence_id_bulk_issuer: Callable[[Sequence[tuple[str, str]]], Awaitable[Sequence[int]]]
    | None = None,
) -> list[Span]:
    """Return the attributed spans of an export request.

    Args:
        request: The decoded request.
        sequence_id_bulk_issuer: Gives one sequence id per pair of rollout and attempt id, for
            the spans that have none; without it they keep 0, which the store replaces.
    """
    found = read_spans(request)
    dropped = found.unattributed + found.malformed
    if dropped:
        logger.warning("spans without rollout or id dropped", extra={"dropped": dropped})
    bare = [span for span in found.spans if span.sequence_id == 0]
    if bare and sequence_id_bulk_issuer is not None:
        numbers = await sequence_id_bulk_issuer([(s.rollout_id, s.attempt_id) for s in bare])
        for span, number in zip(bare, numbers, strict=True):
            span.sequence_id = number
    return found.spans


async def answer_export(
    body: bytes,
    headers: dict[str, str],
    request_type: type[RequestT],
    response_type: type[ResponseT],
    callback: Callable[[RequestT], Awaitable[ResponseT | None]],
) -> OtlpAnswer:
    """Decode an export request, hand it to `callback`, and encode the answer likewise.

    Args:
        body: The body, already decompressed.
        headers: Request headers by lower-case name.
        request_type: Message class of the request.
        response_type: Message class of the answer.
        callback: Does the work; None stands for an empty answer. Its errors propagate.
    """
    content_type = headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type not in (PROTOBUF_TYPE, JSON_TYPE):
        message = f"Content-Type {content_type!r} is not supported: use {PROTOBUF_TYPE}."
        return _refusal(message, PROTOBUF_TYPE)
    try:
        request = _parse(body, content_type, request_type)
    except OtlpBodyError as error:
        return _refusal(str(error), content_type)
    response = await callback(request) or response_type()
    encoded = _serialize(response, content_type)
    if encoded and "gzip" in headers.get("accept-encoding", ""):
        return OtlpAnswer(
            gzip.compress(encoded, 1), 200, content_type, {"content-encoding": "gzip"}
        )
    return OtlpAnswer(encoded, 200, content_type)


async def handle_otlp_export(
    request: Request,
    request_message_cls: type[RequestT],
    response_message_cls: type[ResponseT],
    message_callback: Callable[[RequestT], Awaitable[ResponseT | None]] | None,
    signal_name: str,
) -> Response:
    """Answer an export request of a Starlette or FastAPI application.

    Args:
        request: The HTTP request.
        request_message_cls: Message class of the request.
        response_message_cls: Message class of the answer.
        message_callback: Does the work; None ignores the data.
        signal_name: What is exported, for the log.
    """
    from starlette.responses import Response

    async def work(message: RequestT) -> ResponseT | None:
        return await message_callback(message) if message_callback is not None else None

    body = await request.body()
    headers = {name.lower(): value for name, value in request.headers.items()}
    if headers.get("content-encoding", "").strip().lower() == "gzip":
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            answer = _refusal(f"The body is not valid gzip: {error}.", PROTOBUF_TYPE)
            return Response(answer.body, answer.status, media_type=answer.content_type)
    answer = await answer_export(body, headers, request_message_cls, response_message_cls, work)
    logger.debug("export answered", extra={"signal": signal_name, "status": answer.status})
    return Response(
        answer.body, answer.status, headers=answer.headers, media_type=answer.content_type
    )


def status_body(code: int, message: str, content_type: str) -> bytes:
    """Return a google.rpc.Status, which is how OTLP says what is wrong."""
    if content_type == JSON_TYPE:
        return orjson.dumps({"code": code, "message": message})
    text = message.encode()
    # Why: three bytes of wire format are not worth a dependency on googleapis' messages.
    return b"\x08" + _varint(code) + b"\x12" + _varint(len(text)) + text


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _refusal(message: str, content_type: str) -> OtlpAnswer:
    return OtlpAnswer(status_body(INVALID_ARGUMENT, message, content_type), 400, content_type)


def _parse(body: bytes, content_type: str, request_type: type[RequestT]) -> RequestT:
    from google.protobuf.json_format import ParseDict, ParseError
    from google.protobuf.message import DecodeError

    message = request_type()
    if not body:
        return message
    try:
        if content_type == JSON_TYPE:
            document = _with_base64_ids(orjson.loads(body))
            ParseDict(document, message, ignore_unknown_fields=True, max_recursion_depth=_MAX_DEPTH)
        else:
            message.ParseFromString(body)
    except (DecodeError, ParseError, ValueError, TypeError, AttributeError) as error:
        raise OtlpBodyError(f"The body is not a valid {content_type} export: {error}") from error
    return message


def _serialize(message: Message, content_type: str) -> bytes:
    from google.protobuf.json_format import MessageToJson

    if content_type == JSON_TYPE:
        return MessageToJson(message, indent=None).encode()
    return message.SerializeToString()


def _with_base64_ids(value: Any, depth: int = 0) -> Any:
    """Return an OTLP JSON document with its hexadecimal ids in protobuf's base64.

    OTLP/JSON writes trace and span ids in hexadecimal, against protobuf's own mapping
    (OpenTelemetry protocol specification, "JSON Protobuf Encoding").
    """
    if depth > _MAX_DEPTH:
        raise OtlpBodyError("The body is nested too deeply.")
    if isinstance(value, list):
        return [_with_base64_ids(item, depth + 1) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    return {
        key: base64.b64encode(bytes.fromhex(item)).decode()
        if key in _ID_FIELDS and isinstance(item, str)
        else _with_base64_ids(item, depth + 1)
        for key, item in cast("dict[str, Any]", value).items()
    }
