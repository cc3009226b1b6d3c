"""The client's calls about data: spans, resources and workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote, urlencode

from agentlightning.semconv import LightningSpanAttributes
from agentlightning.store.base import (
    UNSET,
    FilterLogic,
    LightningStore,
    SortOrder,
    Unset,
)
from agentlightning.store.http.client_page import fetch_page, read_page
from agentlightning.store.http.operation import API_PREFIX
from agentlightning.store.http.span_rows import SHAPES_FIELD, AnsweredRows
from agentlightning.store.http.transport import Transport, new_key
from agentlightning.store.http.wire import encode
from agentlightning.store.http.wire_span import AnsweredSpans, encode_spans
from agentlightning.store.record import replace
from agentlightning.types import (
    NamedResources,
    ResourcesUpdate,
    Span,
    Worker,
    WorkerStatus,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["DataCalls"]

MAX_BULK_BYTES: Final = 32 * 1024 * 1024
"""Larger batches of spans are sent in several requests, each stored as a whole or not at all."""


class DataCalls(LightningStore):
    """Part of the client; `_transport` is set by it."""

    _transport: Transport

    async def add_span(self, span: Span) -> Span | None:
        stored = await self.add_many_spans([span])
        return stored[0] if stored else None

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        if not spans:
            return []
        parts = _parts(spans)
        if len(parts) == 1:
            return await self._store_spans(spans, parts[0][1])
        stored: list[Span] = []
        key = new_key()
        for index, (part, body) in enumerate(parts):
            # Why: under one key for all, the second would be taken for a repeat of the first.
            stored += await self._store_spans(part, body, f"{key}#{index}")
        return stored

    async def _store_spans(
        self, spans: Sequence[Span], body: bytes, key: str | None = None
    ) -> list[Span]:
        answer = await self._transport.request("POST", API_PREFIX + "/spans/bulk", body, key=key)
        return [_as_stored(spans[item["index"]], item) for item in answer.json()["stored"]]

    async def add_otel_span(
        self,
        rollout_id: str,
        attempt_id: str,
        readable_span: ReadableSpan,
        sequence_id: int | None = None,
    ) -> Span | None:
        span = Span.from_opentelemetry(readable_span, rollout_id, attempt_id, sequence_id or 0)
        return await self.add_span(span)

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        body = encode({"rollout_id": rollout_id, "attempt_id": attempt_id})
        answer = await self._transport.request("POST", API_PREFIX + "/spans/next", body)
        return answer.json()["sequence_id"]

    async def get_many_span_sequence_ids(
        self, rollout_attempt_ids: Sequence[tuple[str, str]]
    ) -> Sequence[int]:
        if not rollout_attempt_ids:
            return []
        answer = await self._transport.request(
            "POST",
            API_PREFIX + "/spans/next/bulk",
            encode({"pairs": rollout_attempt_ids}),
        )
        return answer.json()["sequence_ids"]

    async def query_spans(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"] | None = None,
        *,
        trace_id: str | None = None,
        trace_id_contains: str | None = None,
        span_id: str | None = None,
        span_id_contains: str | None = None,
        parent_id: str | None = None,
        parent_id_contains: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        limit: int = -1,
        offset: int = 0,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
    ) -> Sequence[Span]:
        query = {
            # The route refuses a page of nothing, which a store in the same process allows.
            "limit": limit or 1,
            "offset": offset,
            "rollout_id": rollout_id,
            "attempt_id": attempt_id,
            "trace_id": trace_id,
            "trace_id_contains": trace_id_contains,
            "span_id": span_id,
            "span_id_contains": span_id_contains,
            "parent_id": parent_id,
            "parent_id_contains": parent_id_contains,
            "name": name,
            "name_contains": name_contains,
            "filter_logic": filter_logic,
            "sort_by": sort_by,
            "sort_order": sort_order,
        }
        body = encode({name: value for name, value in query.items() if value is not None})
        answer = await self._transport.request("POST", API_PREFIX + "/spans/search?rows=true", body)
        raw = answer.json()
        # Servers of other versions do not know of rows.
        read = AnsweredRows(raw) if SHAPES_FIELD in raw else AnsweredSpans()
        return read_page(raw, limit, read)

    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Sequence[ResourcesUpdate]:
        query = {
            "resources_id": resources_id,
            "resources_id_contains": resources_id_contains,
            "sort_by": sort_by,
            "sort_order": sort_order,
            "limit": limit or 1,
            "offset": offset,
        }
        text = urlencode({name: value for name, value in query.items() if value is not None})
        answer = await self._transport.request("GET", f"{API_PREFIX}/resources?{text}")
        return read_page(answer.json(), limit, ResourcesUpdate.model_validate)

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        return await self._get_resources(quote(resources_id, safe=""))

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        return await self._get_resources("latest")

    async def _get_resources(self, name: str) -> ResourcesUpdate | None:
        answer = await self._transport.request("GET", f"{API_PREFIX}/resources/{name}")
        raw = answer.json()
        return None if raw is None else ResourcesUpdate.model_validate(raw)

    async def add_resources(
        self, resources: NamedResources, *, resources_id: str | None = None
    ) -> ResourcesUpdate:
        query = "" if resources_id is None else f"?{urlencode({'resources_id': resources_id})}"
        return await self._publish(f"/resources{query}", resources)

    async def update_resources(
        self, resources_id: str, resources: NamedResources
    ) -> ResourcesUpdate:
        return await self._publish(f"/resources/{quote(resources_id, safe='')}", resources)

    async def _publish(self, path: str, resources: NamedResources) -> ResourcesUpdate:
        answer = await self._transport.request("POST", API_PREFIX + path, encode(resources))
        return ResourcesUpdate.model_validate(answer.json())

    async def query_workers(
        self,
        *,
        status_in: Sequence[WorkerStatus] | None = None,
        worker_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Sequence[Worker]:
        query = {
            "status_in": status_in,
            "worker_id_contains": worker_id_contains,
            "filter_logic": filter_logic,
            "sort_by": sort_by,
            "sort_order": sort_order,
        }
        return await fetch_page(
            self._transport, "/workers/search", query, limit, offset, Worker.model_validate
        )

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        path = f"{API_PREFIX}/workers/{quote(worker_id, safe='')}"
        raw = (await self._transport.request("GET", path)).json()
        return None if raw is None else Worker.model_validate(raw)

    async def update_worker(
        self, worker_id: str, heartbeat_stats: dict[str, Any] | Unset = UNSET
    ) -> Worker:
        path = f"{API_PREFIX}/workers/{quote(worker_id, safe='')}"
        body = {} if isinstance(heartbeat_stats, Unset) else {"heartbeat_stats": heartbeat_stats}
        answer = await self._transport.request("POST", path, encode(body))
        return Worker.model_validate(answer.json())


def _parts(spans: Sequence[Span]) -> list[tuple[Sequence[Span], bytes]]:
    """Cut spans into as many requests as they need; each with its body."""
    body = encode_spans(spans)
    if len(body) <= MAX_BULK_BYTES or len(spans) == 1:
        return [(spans, body)]
    middle = len(spans) // 2
    return [*_parts(spans[:middle]), *_parts(spans[middle:])]


def _as_stored(span: Span, given: dict[str, Any]) -> Span:
    """Return the span as the store keeps it."""
    changes: dict[str, Any] = {}
    if given["sequence_id"] != span.sequence_id:
        changes["sequence_id"] = given["sequence_id"]
    if given["late"]:
        changes["attributes"] = {**span.attributes, LightningSpanAttributes.LATE.value: True}
    return replace(span, **changes) if changes else span
