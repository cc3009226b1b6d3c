"""OTLP/HTTP ingestion: spans of any OpenTelemetry exporter into the store.

Only traces are taken; metrics, logs and profiles are answered 501.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from agentlightning.errors import NotFoundError
from agentlightning.store.http.errors import error_to_wire
from agentlightning.store.http.exchange import Exchange, Reply
from agentlightning.utils.otlp import JSON_TYPE, answer_export, read_spans, status_body

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    from agentlightning.store.base import LightningStore
    from agentlightning.types import Span

__all__ = ["UNSUPPORTED_SIGNALS", "refuse_signal", "take_traces"]

logger = logging.getLogger(__name__)

UNSUPPORTED_SIGNALS: Final = ("/v1/metrics", "/v1/logs", "/v1/development/profiles")
INTERNAL: Final = 13
UNAVAILABLE: Final = 14


async def take_traces(exchange: Exchange) -> Reply:
    """Store the spans of an export request; those that cannot be are counted in the answer."""
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

    async def store_them(
        request: ExportTraceServiceRequest,
    ) -> ExportTraceServiceResponse:
        rejected, reason = await _store_spans(exchange.store, request)
        response = service.ExportTraceServiceResponse()
        if rejected:
            response.partial_success.rejected_spans = rejected
            response.partial_success.error_message = reason
        return response

    try:
        answer = await answer_export(
            exchange.body,
            exchange.headers,
            service.ExportTraceServiceRequest,
            service.ExportTraceServiceResponse,
            store_them,
        )
    except Exception as error:  # noqa: BLE001 - boundary: OTLP has an error body of its own.
        status, fields = error_to_wire(error)
        is_json = exchange.headers.get("content-type", "").startswith(JSON_TYPE)
        content_type = JSON_TYPE if is_json else "application/x-protobuf"
        code = UNAVAILABLE if status == 503 else INTERNAL
        return Reply(status_body(code, fields["detail"], content_type), status, content_type)
    return Reply(answer.body, answer.status, answer.content_type, answer.headers)


async def _store_spans(
    store: LightningStore, request: ExportTraceServiceRequest
) -> tuple[int, str]:
    """Store what can be stored; return how many spans could not be, and why."""
    found = read_spans(request)
    reasons: list[str] = []
    rejected = found.unattributed
    if rejected:
        reasons.append("spans without a valid rollout, attempt, trace or span id")
    groups: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
    for span in found.spans:
        groups[span.rollout_id, span.attempt_id].append(span)
    for spans in groups.values():
        try:
            await store.add_many_spans(spans)
        except NotFoundError as error:
            rejected += len(spans)
            reasons.append(str(error))
    if rejected:
        logger.warning("spans rejected", extra={"rejected": rejected, "reasons": reasons[:5]})
    return rejected, "; ".join(reasons[:5])


async def refuse_signal(_: Exchange) -> Any:
    """Say that this signal is not taken."""
    raise NotImplementedError("Only traces are taken: send them to /v1/traces.")
