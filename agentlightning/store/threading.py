"""A store that many threads may share, whatever is inside.

Only calls are kept apart here: what the store inside keeps per event loop stays its own matter.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from agentlightning._internal.aio import CrossLoopLock, WaitLine
from agentlightning._internal.clock import monotonic
from agentlightning.store.base import LightningStore, LightningStoreCapabilities
from agentlightning.types import AttemptedRollout, Rollout, StoreEvent
from agentlightning.types.event import StoreEventKind

__all__ = ["LightningStoreThreaded"]

_RECHECK_SECONDS: Final = 1.0
"""How often a waiting claim looks by itself, in case work came in past this wrapper."""

_READS: Final = (
    "statistics",
    "query_rollouts",
    "query_attempts",
    "query_spans",
    "query_resources",
    "query_workers",
    "get_rollout_by_id",
    "get_latest_attempt",
    "get_resources_by_id",
    "get_latest_resources",
    "get_worker_by_id",
    "export_records",
    "last_event_seq",
)
_WRITES: Final = (
    "start_rollout",
    "enqueue_rollout",
    "enqueue_many_rollouts",
    "start_attempt",
    "add_span",
    "add_many_spans",
    "add_otel_span",
    "get_next_span_sequence_id",
    "get_many_span_sequence_ids",
    "update_rollout",
    "update_attempt",
    "finish_rollout",
    "fail_rollout",
    "add_resources",
    "update_resources",
    "update_worker",
    "import_records",
    "mark_read",
    "apply_retention",
)


def _given(lease_seconds: float | None, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return those that were given; stores of users may know neither."""
    named = {"lease_seconds": lease_seconds, "metadata": metadata}
    return {name: value for name, value in named.items() if value is not None}


class LightningStoreThreaded(LightningStore):
    """Lets threads and event loops share a store, one call at a time.

    Waiting calls do not hold the others up. A store that is safe by itself is called as it is.

    Args:
        store: The store inside.

    Attributes:
        store: As given.
    """

    def __init__(self, store: LightningStore) -> None:
        self.store = store
        safe = store.capabilities.get("thread_safe") or getattr(store, "is_loop_agnostic", False)
        self._lock = None if safe else CrossLoopLock()
        # Compat 0.3.0: stores of users may know no waiting claims.
        self._claims_wait = "wait_seconds" in inspect.signature(store.dequeue_rollout).parameters
        self._work = WaitLine()

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return {**self.store.capabilities, "async_safe": True, "thread_safe": True}

    @property
    def is_loop_agnostic(self) -> bool:
        """Whether calls may come from any thread and event loop without a lock around them."""
        return True

    def otlp_traces_endpoint(self) -> str:
        return self.store.otlp_traces_endpoint()

    async def close(self) -> None:
        await self.store.close()

    async def _locked(self, call: Callable[[], Awaitable[Any]], *, write: bool) -> Any:
        if self._lock is None:
            result = await call()
        else:
            async with self._lock:
                result = await call()
        if write and len(self._work):
            self._work.wake_all()
        return result

    async def wait_for_rollouts(
        self, *, rollout_ids: list[str], timeout: float | None = None
    ) -> list[Rollout]:
        return await self.store.wait_for_rollouts(rollout_ids=rollout_ids, timeout=timeout)

    async def dequeue_rollout(
        self,
        worker_id: str | None = None,
        *,
        wait_seconds: float = 0.0,
        lease_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AttemptedRollout | None:
        claim = functools.partial(
            self.store.dequeue_rollout, worker_id, **_given(lease_seconds, metadata)
        )
        if self._lock is None and self._claims_wait:
            return await claim(wait_seconds=wait_seconds)
        return await self._claim(claim, wait_seconds)

    async def dequeue_many_rollouts(
        self,
        *,
        limit: int = 1,
        worker_id: str | None = None,
        wait_seconds: float = 0.0,
        lease_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[AttemptedRollout]:
        claim = functools.partial(
            self.store.dequeue_many_rollouts,
            limit=limit,
            worker_id=worker_id,
            **_given(lease_seconds, metadata),
        )
        if self._lock is None and self._claims_wait:
            return await claim(wait_seconds=wait_seconds)
        return await self._claim(claim, wait_seconds)

    async def _claim(self, claim: Callable[[], Awaitable[Any]], wait_seconds: float) -> Any:
        """Claim without holding the lock while there is nothing to claim; wait for it here."""
        end = monotonic() + wait_seconds
        while True:
            waiter = self._work.join()
            try:
                claimed = await self._locked(claim, write=False)
                left = end - monotonic()
                if claimed or left <= 0:
                    return claimed
                await waiter.wait(min(left, _RECHECK_SECONDS))
            finally:
                self._work.leave(waiter)

    def subscribe(
        self,
        *,
        since: int | None = None,
        kinds: Sequence[StoreEventKind] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> AsyncIterator[StoreEvent]:
        return self.store.subscribe(since=since, kinds=kinds, metadata=metadata)


def _forward(name: str, *, write: bool) -> Any:
    """Return a method that calls the inner store's method of this name under the lock."""

    @functools.wraps(getattr(LightningStore, name))
    async def call(self: LightningStoreThreaded, *args: Any, **kwargs: Any) -> Any:
        inner = functools.partial(getattr(self.store, name), *args, **kwargs)
        return await self._locked(inner, write=write)

    return call


for _name in _READS:
    setattr(LightningStoreThreaded, _name, _forward(_name, write=False))
for _name in _WRITES:
    setattr(LightningStoreThreaded, _name, _forward(_name, write=True))
