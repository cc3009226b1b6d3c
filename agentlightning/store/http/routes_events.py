"""Routes about the store itself: health, statistics, and the stream of changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from agentlightning.errors import ConflictError, InvalidRequestError
from agentlightning.store.http.exchange import Exchange, Stream
from agentlightning.store.http.operation import Operation
from agentlightning.store.http.site import Site
from agentlightning.store.http.wire import MAX_INTEGER, decode, encode
from agentlightning.types import StoreEvent
from agentlightning.types.event import StoreEventKind

__all__ = ["EVENT_STREAM_TYPE", "OPERATIONS"]

EVENT_STREAM_TYPE: Final = "text/event-stream"
KEEP_ALIVE_SECONDS: Final = 15.0
"""Longest silence of an event stream; a comment is sent then, so that dead peers are noticed."""


class EventQuery(BaseModel):
    """Which changes to stream."""

    since: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    """Replay what came after this `seq`; a `Last-Event-ID` header goes before it."""
    kinds: list[StoreEventKind] | None = None
    metadata: str | None = None
    """A JSON object; only events of rollouts whose metadata holds all of its pairs."""


class Health(BaseModel):
    """Answer of a server that lives."""

    status: str


async def health(_: Exchange) -> dict[str, str]:
    """Say that the server lives."""
    return {"status": "ok"}


async def statistics(exchange: Exchange) -> dict[str, Any]:
    """Return counts and sizes; also of spans that this server could not store."""
    counts = dict(await exchange.store.statistics())
    rejected = {name: count for name, count in exchange.site.rejected_spans.items() if count}
    return {**counts, "rejected_spans": rejected} if rejected else counts


class LastEvent(BaseModel):
    """Where a reader with a cursor of its own begins."""

    seq: int


async def last_event(exchange: Exchange) -> dict[str, int]:
    """Return the number of the newest event."""
    return {"seq": await exchange.store.last_event_seq()}


async def stream_events(exchange: Exchange) -> Stream:
    """Stream changes as server-sent events."""
    query = exchange.parse_query(EventQuery)
    metadata = decode(query.metadata.encode()) if query.metadata else None
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidRequestError("metadata must be a JSON object.")
    last_id = exchange.headers.get("last-event-id")
    since = query.since if last_id is None else _event_id(last_id)
    newest = await _newest(exchange)
    if since is None:
        since = newest
    elif newest is not None and since > newest:
        raise ConflictError(
            f"Event {since} is yet to come: the last one is {newest}. The cursor belongs to another "
            "store; read the records anew and subscribe from now on."
        )
    events = exchange.store.subscribe(since=since, kinds=query.kinds, metadata=metadata)
    return Stream(_sent_events(exchange.site, events, since), EVENT_STREAM_TYPE)


async def _newest(exchange: Exchange) -> int | None:
    """Return the number of the newest event, or None from a store that cannot tell.

    A client that knows it misses nothing if it is cut off before its first event.
    """
    try:
        return await exchange.store.last_event_seq()
    except NotImplementedError:
        return None


def _event_id(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > MAX_INTEGER:
        raise InvalidRequestError(f"Last-Event-ID is {text!r}: send the id of an event.")
    return int(text)


async def _sent_events(
    site: Site, events: AsyncIterator[StoreEvent], since: int | None
) -> AsyncGenerator[bytes, None]:
    """Yield events in the text/event-stream format until the server closes."""
    closing = asyncio.ensure_future(site.closing.wait())
    pending = asyncio.ensure_future(anext(events, None))
    try:
        # Why: the subscription begins with the first step of `pending`, so "ready" means ready.
        await asyncio.sleep(0)
        # An id without data is no event, but is what a reader sends back to go on.
        yield b": ready\n\n" if since is None else b": ready\nid: %d\n\n" % since
        while True:
            await asyncio.wait(
                {pending, closing},
                timeout=KEEP_ALIVE_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if pending.done():
                event = pending.result()
                if event is None:
                    return
                pending = asyncio.ensure_future(anext(events, None))
                yield _event_text(event)
            elif closing.done():
                return
            else:
                yield b": keep-alive\n\n"
    finally:
        closing.cancel()
        pending.cancel()
        with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
            await pending
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def _event_text(event: StoreEvent) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.kind.encode(), encode(event))


_ANY: Final[Any] = dict[str, Any]

OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/health",
        handler=health,
        summary="Say that the server lives",
        returns=Health,
    ),
    Operation(
        method="GET",
        path="/statistics",
        handler=statistics,
        summary="Get counts and sizes",
        returns=_ANY,
    ),
    Operation(
        method="GET",
        path="/events/last",
        handler=last_event,
        summary="Get the number of the newest event",
        returns=LastEvent,
    ),
    Operation(
        method="GET",
        path="/events",
        handler=stream_events,
        summary="Stream changes as server-sent events",
        takes=EventQuery,
        returns=StoreEvent,
        content_type=EVENT_STREAM_TYPE,
    ),
)
