"""Routes of spans and their sequence ids."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from agentlightning.semconv import LightningSpanAttributes
from agentlightning.store.collections.packed import reading_packed
from agentlightning.store.http.errors import UnprocessableError, describe_validation
from agentlightning.store.http.exchange import Exchange, Reply
from agentlightning.store.http.operation import Operation
from agentlightning.store.http.schemas import (
    SequenceIdRequest,
    SequenceIdsRequest,
    SpanSearch,
)
from agentlightning.store.http.span_rows import encode_rows
from agentlightning.store.http.wire import page_body
from agentlightning.store.http.wire_span import span_from_wire, span_to_wire
from agentlightning.types import PaginatedResult, Span

__all__ = ["OPERATIONS", "SequenceIdAnswer", "SpansStored", "StoredSpan"]

_LATE: Final = LightningSpanAttributes.LATE.value


class StoredSpan(BaseModel):
    """What the store gave to a span of a bulk request."""

    index: int
    """Position in the request."""
    sequence_id: int
    late: bool
    """The span's attempt had ended, or had been taken away."""


class SpansStored(BaseModel):
    """Answer to a bulk request; spans that were stored before are not in it."""

    stored: list[StoredSpan]


class SpanForm(BaseModel):
    """How a page of spans is written."""

    rows: bool = False
    """In the form of our own client, which may change with any version; see `span_rows`."""


class SequenceIdAnswer(BaseModel):
    """A reserved sequence id."""

    sequence_id: int


class SequenceIdsAnswer(BaseModel):
    """Reserved sequence ids, in the order asked for."""

    sequence_ids: list[int]


async def add_span(exchange: Exchange) -> Span | dict[str, Any] | None:
    """Store one span; null when it was stored before."""
    stored = await exchange.store.add_span(span_from_wire(exchange.json()))
    return None if stored is None else span_to_wire(stored)


async def add_spans(exchange: Exchange) -> dict[str, Any]:
    """Store several spans in one step, or none of them."""
    raw = exchange.json()
    if not isinstance(raw, list):
        raise UnprocessableError("The body must be a list of spans.")
    spans = [_span_at(index, item) for index, item in enumerate(raw)]
    stored = await exchange.store.add_many_spans(spans)
    positions: dict[tuple[str, str, str], int] = {}
    for index, span in enumerate(spans):
        positions.setdefault((span.rollout_id, span.attempt_id, span.span_id), index)
    return {
        "stored": [
            {
                "index": positions[span.rollout_id, span.attempt_id, span.span_id],
                "sequence_id": span.sequence_id,
                "late": span.attributes.get(_LATE) is True,
            }
            for span in stored
        ]
    }


def _span_at(index: int, raw: Any) -> Span:
    try:
        return span_from_wire(raw)
    except ValidationError as error:
        raise UnprocessableError(f"span {index}: {describe_validation(error)}") from error
    except UnprocessableError as error:
        raise UnprocessableError(f"span {index}: {error}") from error


async def list_spans(exchange: Exchange) -> dict[str, Any]:
    """List spans by a query string."""
    return await _spans(exchange, exchange.parse_query(SpanSearch))


async def search_spans(exchange: Exchange) -> Reply | dict[str, Any]:
    """List spans by a JSON query."""
    search = exchange.parse(SpanSearch)
    if not exchange.parse_query(SpanForm).rows:
        return await _spans(exchange, search)
    with reading_packed() if exchange.site.packs_spans() else nullcontext():
        found = await exchange.store.query_spans(**search.checked())
    page = page_body(found, search.limit, search.offset)
    return Reply(encode_rows(page))


async def _spans(exchange: Exchange, search: SpanSearch) -> dict[str, Any]:
    found = await exchange.store.query_spans(**search.checked())
    page = page_body(found, search.limit, search.offset)
    return {**page, "items": [span_to_wire(span) for span in page["items"]]}


async def next_sequence_id(exchange: Exchange) -> dict[str, int]:
    """Reserve the next sequence id of a rollout."""
    body = exchange.parse(SequenceIdRequest)
    number = await exchange.store.get_next_span_sequence_id(body.rollout_id, body.attempt_id)
    return {"sequence_id": number}


async def next_sequence_ids(exchange: Exchange) -> dict[str, list[int]]:
    """Reserve one sequence id per pair of ids."""
    body = exchange.parse(SequenceIdsRequest)
    return {"sequence_ids": [*await exchange.store.get_many_span_sequence_ids(body.pairs)]}


OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/spans/bulk",
        handler=add_spans,
        summary="Store several spans in one step",
        takes=list[Span],
        returns=SpansStored,
        status=201,
        replayable=True,
        # A store knows spans by their ids, so it answers a repeat with no new ones.
        remembered=False,
    ),
    Operation(
        method="POST",
        path="/spans",
        handler=add_span,
        summary="Store one span",
        takes=Span,
        returns=Span | None,
        status=201,
        replayable=True,
        # A store knows spans by their ids, so it answers a repeat with no new ones.
        remembered=False,
    ),
    Operation(
        method="GET",
        path="/spans",
        handler=list_spans,
        summary="List the spans of a rollout",
        takes=SpanSearch,
        returns=PaginatedResult[Span],
    ),
    Operation(
        method="POST",
        path="/spans/search",
        handler=search_spans,
        summary="List the spans of a rollout by a JSON query",
        takes=SpanSearch,
        query=SpanForm,
        returns=PaginatedResult[Span],
    ),
    Operation(
        method="POST",
        path="/spans/next",
        handler=next_sequence_id,
        summary="Reserve the next sequence id of a rollout",
        takes=SequenceIdRequest,
        returns=SequenceIdAnswer,
        replayable=True,
    ),
    Operation(
        method="POST",
        path="/spans/next/bulk",
        handler=next_sequence_ids,
        summary="Reserve several sequence ids",
        takes=SequenceIdsRequest,
        returns=SequenceIdsAnswer,
        replayable=True,
    ),
)
