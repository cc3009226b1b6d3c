"""Collections that are measured: how often and how long each operation, and which rollouts end.

Only a store with a tracker has these around its collections; the others pay nothing. Within an
atomic block samples are only noted, since a block must not wait for anything else; they are
written after it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from agentlightning._internal.aio import CommittedThenCancelledError
from agentlightning._internal.clock import monotonic
from agentlightning.store.tracking import Tracker, public_method

if TYPE_CHECKING:
    from agentlightning.store.collections.base import (
        AtomicLabels,
        AtomicMode,
        LightningCollections,
    )
    from agentlightning.store.collections.changes import Changes
    from agentlightning.types import Rollout

__all__ = ["metered"]

R = TypeVar("R")

_PARTS: Final = frozenset(
    {
        "rollouts",
        "attempts",
        "spans",
        "resources",
        "resource_versions",
        "workers",
        "rollout_queue",
        "span_sequence_ids",
        "events",
    }
)
_ABOUT: Final = {
    "find_rollouts": "rollouts",
    "count_by_status": "rollouts",
    "find_active": "rollouts",
    "find_attempt": "attempts",
    "find_latest_attempts": "attempts",
    "find_worker": "workers",
    "find_newest_resources": "resources",
    "find_newest_resources_id": "resources",
    "find_queued": "rollout_queue",
    "find_known_spans": "spans",
    "find_span_bytes": "spans",
    "find_sequence_ids": "span_sequence_ids",
}
"""Which collection an operation is about; one that is about several of them counts as `all`."""
_ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})

_Sample = tuple[str, str, str, float]
"""Operation, collection, status, seconds."""


def metered(collections: LightningCollections, tracker: Tracker) -> LightningCollections:
    """Return the collections with their operations measured; everything else is as it was."""
    return cast("LightningCollections", _MeteredCollections(collections, tracker))


class _Metered:
    """Whatever is inside, with its coroutine methods timed."""

    def __init__(self, inner: Any, collection: str, samples: list[_Sample]) -> None:
        self._inner = inner
        self._collection = collection
        self._samples = samples

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(value):
            return value
        return self.timed(name, value)

    def timed(
        self, name: str, call: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        """Return the method with its calls noted."""
        collection = self._collection

        async def timed(*args: Any, **kwargs: Any) -> Any:
            began = monotonic()
            status = "ok"
            try:
                return await call(*args, **kwargs)
            except BaseException as error:
                status = type(error).__name__
                raise
            finally:
                self._samples.append((name, collection, status, monotonic() - began))

        return timed


class _MeteredBlock(_Metered):
    """The collections as the callback of one atomic block sees them."""

    def __init__(self, inner: LightningCollections) -> None:
        super().__init__(inner, "all", [])
        self._open: set[str] = set()
        """Rollouts that had not ended when the block asked for them."""
        self._ended: list[Rollout] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name in _PARTS:
            return None if value is None else _Metered(value, name, self._samples)
        if not inspect.iscoroutinefunction(value):
            return value
        return _Metered(self._inner, _ABOUT.get(name, "all"), self._samples).timed(name, value)

    async def find_rollouts(self, rollout_ids: Sequence[str]) -> dict[str, Rollout]:
        """Pass on, and note which of them are open."""
        found = await self.__getattr__("find_rollouts")(rollout_ids)
        self._open.update(key for key, each in found.items() if each.status not in _ENDED)
        return found

    async def apply(self, changes: Changes) -> None:
        """Pass on, and note which rollouts end."""
        self._ended = [
            rollout
            for key, rollout in changes.rollouts.items()
            if rollout.status in _ENDED and key in self._open
        ]
        await self.__getattr__("apply")(changes)

    async def write(self, tracker: Tracker, mode: str, *, committed: bool) -> None:
        """Write what was noted."""
        served = public_method.get()
        for operation, collection, status, seconds in self._samples:
            labels = {
                "store_pubmeth": served,
                "operation": operation,
                "collection": collection,
                "store_privmeth": "read" if mode == "r" else "write",
                "status": status,
            }
            await tracker.inc_counter("agl.collections.total", 1.0, labels)
            await tracker.observe_histogram("agl.collections.latency", seconds, labels)
        for rollout in self._ended if committed else ():
            labels = {"status": rollout.status, "mode": rollout.mode or "none"}
            seconds = (rollout.end_time or rollout.start_time) - rollout.start_time
            await tracker.inc_counter("agl.rollouts.total", 1.0, labels)
            await tracker.observe_histogram("agl.rollouts.duration", seconds, labels)


class _MeteredCollections:
    """The collections as the store sees them; what it does not measure is passed through."""

    def __init__(self, inner: LightningCollections, tracker: Tracker) -> None:
        self._inner = inner
        self._tracker = tracker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def execute(
        self,
        callback: Callable[[LightningCollections], Awaitable[R]],
        *,
        mode: AtomicMode = "rw",
        snapshot: bool = False,
        commit: bool = False,
        labels: Sequence[AtomicLabels] | None = None,
        **kwargs: Any,
    ) -> R:
        """Run the callback and write what it did; of several runs, the last."""
        block: _MeteredBlock | None = None
        committed = False

        async def body(rows: LightningCollections) -> R:
            nonlocal block
            block = _MeteredBlock(rows)
            return await callback(cast("LightningCollections", block))

        try:
            result = await self._inner.execute(
                body, mode=mode, snapshot=snapshot, commit=commit, labels=labels, **kwargs
            )
        except BaseException as error:
            committed = isinstance(error, CommittedThenCancelledError)
            raise
        else:
            committed = True
        finally:
            # A backend may fail before it begins the block.
            if block is not None:
                await block.write(self._tracker, mode, committed=committed)
        return result
