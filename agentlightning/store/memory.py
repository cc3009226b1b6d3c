"""The store in memory: the default, the fastest, and gone with the process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import psutil
from pydantic import BaseModel

from agentlightning.errors import ConfigurationError, StoreError
from agentlightning.store.base import LightningStoreCapabilities, LightningStoreStatistics
from agentlightning.store.collection_based import CollectionBasedLightningStore
from agentlightning.store.collections.base import LightningCollections
from agentlightning.store.collections.memory import InMemoryLightningCollections
from agentlightning.types import Span

__all__ = ["InMemoryLightningStore", "estimate_model_size"]

logger = logging.getLogger(__name__)

_EVICTION_RATIO: Final = 0.7
_SAFE_RATIO: Final = 0.8
_NUMBER_BYTES: Final = 32


def _estimate(value: Any) -> int:
    kind = type(value)
    if kind is str or kind is int or kind is float or kind is bool or value is None:
        return sys.getsizeof(value)
    if kind is list and value and type(value[0]) in {int, float}:
        # Perf: a list of token ids is counted, not walked.
        return sys.getsizeof(value) + len(value) * _NUMBER_BYTES
    if isinstance(value, BaseModel):
        extra = value.__pydantic_extra__ or {}
        return sys.getsizeof(value) + _estimate(value.__dict__) + (_estimate(extra) if extra else 0)
    if isinstance(value, Mapping):
        parts = cast("Mapping[Any, Any]", value)
        return sys.getsizeof(parts) + sum(_estimate(k) + _estimate(v) for k, v in parts.items())
    if isinstance(value, list | tuple | set | frozenset):
        items = cast("Sequence[Any]", value)
        return sys.getsizeof(items) + sum(_estimate(item) for item in items)
    return sys.getsizeof(value)


def estimate_model_size(model: BaseModel) -> int:
    """Return about how many bytes a record takes in memory, nested values included.

    Lists whose first item is a number are taken to hold numbers only.
    """
    return _estimate(model)


def _threshold(name: str, value: float | None, default: float, capacity: int, least: float) -> int:
    """Return a limit in bytes from a ratio (float) or a number of bytes (int)."""
    if value is None:
        value = default
    if isinstance(value, float):
        if not least <= value <= 1 or value < 0:
            raise ConfigurationError(
                f"{name} as a float is a ratio of the memory, from 0 to 1, not {value}; "
                "give bytes as an int."
            )
        return int(value * capacity)
    if value < least or value < 0:
        raise ConfigurationError(f"{name} in bytes must be positive, not {value}.")
    return value


class InMemoryLightningStore(CollectionBasedLightningStore):
    """A store in this process's memory, for any number of threads and event loops.

    It keeps spans packed, about 0.7 KB for one of fourteen attributes, and makes them anew at each
    reading; answers to repeated calls are kept for the last 16,384 idempotency keys.

    When spans take more than a threshold, those of whole rollouts are given up, oldest first,
    until they take less than the safe one; rollouts, attempts and resources are always kept.

    Args:
        thread_safe: What `capabilities` says; the store is safe to share either way.
        eviction_memory_threshold: When to give up spans: a float is a ratio of the system's
            memory, an int a number of bytes. 70 % by default.
        safe_memory_threshold: Down to where; likewise. 80 % of the eviction threshold by default.
        span_size_estimator: Returns the bytes that a span takes; by default what its packed form
            does.
        tracker: See `CollectionBasedLightningStore`.
        scan_debounce_seconds: See `CollectionBasedLightningStore`.

    Raises:
        ConfigurationError: A threshold is out of range, or the safe one is not below the other.
    """

    def __init__(
        self,
        *,
        thread_safe: bool = False,
        eviction_memory_threshold: float | int | None = None,
        safe_memory_threshold: float | int | None = None,
        span_size_estimator: Callable[[Span], int] | None = None,
        tracker: Any = None,
        scan_debounce_seconds: float = 10.0,
    ) -> None:
        self._memory = InMemoryLightningCollections(tracker=tracker, span_size=span_size_estimator)
        super().__init__(self._memory, tracker=tracker, scan_debounce_seconds=scan_debounce_seconds)
        self._thread_safe = thread_safe
        self._capacity = psutil.virtual_memory().total
        self._eviction_bytes = _threshold(
            "eviction_memory_threshold",
            eviction_memory_threshold,
            _EVICTION_RATIO,
            self._capacity,
            least=sys.float_info.min,
        )
        self._safe_bytes = _threshold(
            "safe_memory_threshold",
            safe_memory_threshold,
            int(_SAFE_RATIO * self._eviction_bytes),
            self._capacity,
            least=0,
        )
        if self._safe_bytes >= self._eviction_bytes:
            raise ConfigurationError(
                f"safe_memory_threshold ({self._safe_bytes} bytes) must be below "
                f"eviction_memory_threshold ({self._eviction_bytes} bytes)."
            )
        self._evicted: set[str] = set()

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(
            thread_safe=self._thread_safe, async_safe=True, zero_copy=False, otlp_traces=False
        )

    async def statistics(self) -> LightningStoreStatistics:
        counts = await super().statistics()
        counts["total_span_bytes"] = self._memory.spans.total_bytes
        counts["eviction_threshold_bytes"] = self._eviction_bytes
        counts["safe_threshold_bytes"] = self._safe_bytes
        counts["memory_capacity_bytes"] = self._capacity
        return counts

    def _is_crowded(self) -> bool:
        return self._memory.spans.total_bytes > self._eviction_bytes

    async def _make_room(self) -> None:
        await self._memory.execute(self._evict)

    async def _evict(self, rows: LightningCollections) -> None:
        """Give up the spans of the oldest rollouts until the others take little enough."""
        spans = self._memory.spans
        rollouts = await rows.rollouts.query(sort={"name": "start_time", "order": "asc"})
        evicted = 0
        for rollout in rollouts:
            if spans.total_bytes <= self._safe_bytes:
                break
            if spans.drop(rollout.rollout_id):
                self._evicted.add(rollout.rollout_id)
                evicted += 1
        logger.warning(
            "spans take too much memory, gave up those of the oldest rollouts",
            extra={"rollouts": evicted, "left_bytes": spans.total_bytes},
        )

    async def _check_spans_kept(self, rollout_id: str) -> None:
        if rollout_id in self._evicted:
            raise StoreError(
                f"The spans of rollout {rollout_id} were given up to make room in memory; "
                "raise eviction_memory_threshold or use a store on disk."
            )
