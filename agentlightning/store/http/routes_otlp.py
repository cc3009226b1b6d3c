"""OTLP/HTTP ingestion: spans of any OpenTelemetry exporter into the store.

Only traces are taken; metrics, logs and profiles are answered 501.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from agentlightning.errors import InvalidRequestError, NotFoundError
from agentlightning.store.http.exchange import Exchange, Reply
from agentlightning.utils.otlp import (
    INVALID_ARGUMENT,
    JSON_TYPE,
    PROTOBUF_TYPE,
    answer_export,
    read_spans,
    status_body,
)

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    from agentlightning.store.base import LightningStore
    from agentlightning.types import Span

__all__ = ["UNSUPPORTED_SIGNALS", "refuse_export", "refuse_signal", "take_traces"]

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
        rejected, reason = await _store_spans(exchange, request)
        response = service.ExportTraceServiceResponse()
        if rejected:
            response.partial_success.rejected_spans = rejected
            response.partial_success.error_message = reason
        return response

    answer = await answer_export(
        exchange.body,
        exchange.headers,
        service.ExportTraceServiceRequest,
        service.ExportTraceServiceResponse,
        store_them,
    )
    return Reply(answer.body, answer.status, answer.content_type, answer.headers)


def refuse_export(content_type: str, status: int, detail: str) -> Reply:
    """Return the answer to an export that failed as a whole, in the encoding of the request."""
    kind = JSON_TYPE if content_type.startswith(JSON_TYPE) else PROTOBUF_TYPE
    code = UNAVAILABLE if status == 503 else INTERNAL if status >= 500 else INVALID_ARGUMENT
    return Reply(status_body(code, detail, kind), status, kind)


async def _store_spans(exchange: Exchange, request: ExportTraceServiceRequest) -> tuple[int, str]:
    """Store what can be stored; return how many spans could not be, and why."""
    found = read_spans(request)
    rejected = {"unattributed": found.unattributed, "malformed": found.malformed}
    reasons: list[str] = []
    if found.unattributed:
        reasons.append(
            f"{found.unattributed} spans name no rollout and attempt: set "
            "agentlightning.rollout_id and agentlightning.attempt_id on the resource or the span"
        )
    if found.malformed:
        reasons.append(f"{found.malformed} spans have no valid trace and span id")
    if found.spans:
        rejected["unknown"] = await _add(exchange.store, found.spans, reasons)
    total = sum(rejected.values())
    if total:
        await exchange.site.note_rejected(rejected)
        logger.warning("spans rejected", extra={"rejected": rejected, "reasons": reasons[:5]})
    return total, "; ".join(reasons[:5])


async def _add(store: LightningStore, spans: list[Span], reasons: list[str]) -> int:
    """Store spans, and return how many belong to nothing that the store knows."""
    try:
        # Perf: one step for all, as almost always all of them are welcome.
        await store.add_many_spans(spans)
    except (NotFoundError, InvalidRequestError) as error:
        groups: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
        for span in spans:
            groups[span.rollout_id, span.attempt_id].append(span)
        if len(groups) == 1:
            reasons.append(str(error))
            return len(spans)
        return sum([await _add(store, group, reasons) for group in groups.values()])
    return 0


async def refuse_signal(_: Exchange) -> Any:
    """Say that this signal is not taken."""
    raise NotImplementedError("Only traces are taken: send them to /v1/traces.")
