"""One lane of the background export: the queue of spans for one store, and how it is emptied.

A lane knows nothing of threads of its own: it is given a way to run a coroutine on the export
loop. Errors end here; nothing of them reaches the agent.
"""

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import monotonic
from agentlightning.errors import NotFoundError, StoreError
from agentlightning.store.foreign import store_errors
from agentlightning.tracer.delivery import Delivery
from agentlightning.types.tracer import Span

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["ExportOptions", "Lane"]

logger = logging.getLogger(__name__)

Item = tuple[Delivery, Span]
Spawn = Callable[[Coroutine[Any, Any, None]], "Future[None]"]

_FIRST_RETRY_SECONDS = 0.05
_LONGEST_RETRY_SECONDS = 2.0
_PERMANENT = (ValueError, TypeError, NotImplementedError)
"""Errors that the same call meets again; a store's refusals are all among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Limits of the background export; times are seconds."""

    max_queued_spans: int = 65_536
    """Spans waiting for one store; more are dropped and counted."""
    batch_size: int = 512
    linger_seconds: float = 0.05
    """How long the first span of a batch waits for company, unless somebody flushes."""
    call_timeout_seconds: float = 30.0
    """Longest single call to the store."""
    retry_seconds: float = 60.0
    """How long a batch is tried again before it is dropped and counted."""


class Lane:
    """The spans on their way to one store, in order. `put` and `hurry` are for any thread."""

    def __init__(
        self,
        store: "LightningStore",
        home: asyncio.AbstractEventLoop | None,
        options: ExportOptions,
        spawn: Spawn,
    ) -> None:
        self.store = store
        self.home = home
        """Event loop to call the store on; None for the export loop."""
        self.home_is_blocked = False
        """Set while the home loop's own thread waits for this lane; then it is not called."""
        self._options = options
        self._spawn = spawn
        self.forget()

    def forget(self) -> None:
        """Start afresh with nothing queued; for a forked child, whose parent has the queue."""
        self.idle = threading.Event()
        """Set while nothing is queued or under way."""
        self.idle.set()
        # Reentrant, since garbage that is collected inside may end a span as it goes.
        self._lock = threading.RLock()
        self._queue: deque[Item] = deque()
        self._running = False
        self._urgent = False
        self._wake: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    @property
    def is_stale(self) -> bool:
        """Whether the lane is empty and the event loop it was made for is gone."""
        return self.home is not None and self.home.is_closed() and self.idle.is_set()

    def put(self, delivery: Delivery, span: Span) -> None:
        """Queue one span, or drop it when the queue is full; never blocks."""
        delivery.announce()
        item = (delivery, span)
        with self._lock:
            full = len(self._queue) >= self._options.max_queued_spans
            start = not full and not self._running
            if not full:
                self._queue.append(item)
            if start:
                self._running = True
                self.idle.clear()
        if full:
            self._drop([item], "queue is full")
        elif start:
            self._spawn(self._drain())

    def hurry(self) -> None:
        """Send what is queued without waiting for more."""
        with self._lock:
            if not self._running:
                return
            self._urgent = True
            if self._wake is not None:
                loop, event = self._wake
                loop.call_soon_threadsafe(event.set)

    def abandon(self) -> None:
        """Drop what is queued; only for when the export loop has ended."""
        with self._lock:
            items = list(self._queue)
            self._queue.clear()
            self._running = self._urgent = False
            self.idle.set()
        if items:
            self._drop(items, "shut down")

    async def _drain(self) -> None:
        """Send batch after batch until the queue is empty."""
        while True:
            await self._linger()
            with self._lock:
                batch = [
                    self._queue.popleft()
                    for _ in range(min(len(self._queue), self._options.batch_size))
                ]
                if not batch:
                    self._running = self._urgent = False
                    self.idle.set()
                    if self._running:
                        self.idle.clear()
                    return
            await self._deliver(batch)

    async def _linger(self) -> None:
        with self._lock:
            if self._urgent or not 0 < len(self._queue) < self._options.batch_size:
                return
            event = asyncio.Event()
            self._wake = (asyncio.get_running_loop(), event)
        try:
            await asyncio.wait_for(event.wait(), self._options.linger_seconds)
        except TimeoutError:
            return
        finally:
            with self._lock:
                self._wake = None

    async def _deliver(self, batch: list[Item]) -> None:
        """Store a batch, trying again and dividing it as its errors demand."""
        parts = deque([batch])
        try:
            while parts:
                refusal = await self._store_part(parts[0])
                part = parts.popleft()
                if refusal is None:
                    continue
                smaller = _divide(part, refusal)
                if len(smaller) > 1:
                    parts.extendleft(reversed(smaller))
                else:
                    self._drop(part, "refused by the store", refusal)
        except asyncio.CancelledError:
            self._drop(list(itertools.chain.from_iterable(parts)), "shut down")
            raise

    async def _store_part(self, part: list[Item]) -> Exception | None:
        """Store spans, retrying; return the error when the store will never take them."""
        deadline = monotonic() + self._options.retry_seconds
        delay = _FIRST_RETRY_SECONDS
        while True:
            try:
                with store_errors():
                    stored = await asyncio.wait_for(
                        self._call([span for _, span in part]), self._options.call_timeout_seconds
                    )
            except _PERMANENT as error:
                return error
            except (StoreError, TimeoutError) as error:
                if monotonic() + delay > deadline:
                    self._drop(part, "store keeps failing", error)
                    return None
                logger.debug("span export will be retried", extra={"error": repr(error)})
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LONGEST_RETRY_SECONDS)
            else:
                _acknowledge(part, stored)
                return None

    async def _call(self, spans: list[Span]) -> Sequence[Span]:
        home = self.home
        if home is None or self.home_is_blocked or not home.is_running():
            return await self.store.add_many_spans(spans)
        # A store that is not thread-safe is called where the rest of the program calls it.
        call = asyncio.run_coroutine_threadsafe(_add(self.store, spans), home)
        return await asyncio.wrap_future(call)

    def _drop(self, items: list[Item], why: str, error: Exception | None = None) -> None:
        # One warning per attempt, before anybody who waits for the attempt goes on.
        for delivery, count in _per_delivery(items):
            logger.log(
                logging.DEBUG if delivery.dropped else logging.WARNING,
                "spans dropped",
                extra={
                    "rollout_id": delivery.rollout_id,
                    "attempt_id": delivery.attempt_id,
                    "spans": count,
                    "why": why,
                    "error": repr(error) if error else None,
                },
            )
            delivery.settle(dropped=count)


async def _add(store: "LightningStore", spans: list[Span]) -> Sequence[Span]:
    return await store.add_many_spans(spans)


def _acknowledge(items: list[Item], stored: Sequence[Span]) -> None:
    """Count spans as stored, and give ours the sequence ids that the store chose."""
    numbers = {span.span_id: span.sequence_id for span in stored}
    for _, span in items:
        if not span.sequence_id and (number := numbers.get(span.span_id)):
            span.sequence_id = number
    for delivery, count in _per_delivery(items):
        delivery.settle(sent=count)


def _per_delivery(items: Sequence[Item]) -> list[tuple[Delivery, int]]:
    counts: dict[int, tuple[Delivery, int]] = {}
    for delivery, _ in items:
        counts[id(delivery)] = (delivery, counts.get(id(delivery), (delivery, 0))[1] + 1)
    return list(counts.values())


def _divide(items: list[Item], error: Exception) -> list[list[Item]]:
    """Cut a refused batch so that the spans which are not to blame get through.

    Attempts are separated first. An unknown attempt takes all of its spans down; other refusals
    may be about one span, which halving finds.
    """
    by_attempt: dict[int, list[Item]] = {}
    for item in items:
        by_attempt.setdefault(id(item[0]), []).append(item)
    if len(by_attempt) > 1:
        return list(by_attempt.values())
    if isinstance(error, NotFoundError) or len(items) == 1:
        return [items]
    middle = len(items) // 2
    return [items[:middle], items[middle:]]
