"""The store in memory: the default, the fastest, and gone with the process."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import psutil
from pydantic import BaseModel

from agentlightning.errors import ConfigurationError, StoreError
from agentlightning.store.base import LightningStoreCapabilities, LightningStoreStatistics
from agentlightning.store.collection_based import CollectionBasedLightningStore
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.collections.base import LightningCollections
from agentlightning.store.collections.memory import InMemoryLightningCollections
from agentlightning.types import Span

__all__ = ["InMemoryLightningStore", "estimate_model_size"]

logger = logging.getLogger(__name__)

_EVICTION_RATIO: Final = 0.7
_SAFE_RATIO: Final = 0.8
_SPAN_BYTES: Final = 3700
"""What a span takes besides its attributes and events, measured with `estimate_model_size`."""
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


def _span_size(span: Span) -> int:
    """Return about how many bytes a span takes.

    Perf: 2 µs, where `estimate_model_size` takes 30; what hardly differs is not walked.
    """
    size = _SPAN_BYTES + _estimate(span.attributes)
    if span.events or span.links or span.__pydantic_extra__:
        size += _estimate(span.events) + _estimate(span.links) + _estimate(span.model_extra)
    return size


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

    When spans take more than a threshold, those of whole rollouts are given up, oldest first,
    until they take less than the safe one; rollouts, attempts and resources are always kept.

    Args:
        thread_safe: What `capabilities` says; the store is safe to share either way.
        eviction_memory_threshold: When to give up spans: a float is a ratio of the system's
            memory, an int a number of bytes. 70 % by default.
        safe_memory_threshold: Down to where; likewise. 80 % of the eviction threshold by default.
        span_size_estimator: Returns the bytes that a span takes; a quick estimate by default.
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
        self._memory = InMemoryLightningCollections(tracker=tracker)
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
        self._span_size = span_size_estimator or _span_size
        self._span_bytes: dict[str, int] = {}
        self._total_span_bytes = 0
        self._evicted: set[str] = set()
        self._guard = threading.Lock()

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(
            thread_safe=self._thread_safe, async_safe=True, zero_copy=False, otlp_traces=False
        )

    async def statistics(self) -> LightningStoreStatistics:
        counts = await super().statistics()
        counts["total_span_bytes"] = self._total_span_bytes
        counts["eviction_threshold_bytes"] = self._eviction_bytes
        counts["safe_threshold_bytes"] = self._safe_bytes
        counts["memory_capacity_bytes"] = self._capacity
        return counts

    async def _tell(self, transaction: Transaction | None) -> None:
        await super()._tell(transaction)
        if transaction is not None and transaction.changes.new_spans:
            await self._make_room(transaction.changes.new_spans)

    async def _make_room(self, spans: Sequence[Span]) -> None:
        """Count new spans, and give up those of the oldest rollouts if there are too many."""
        with self._guard:
            for span in spans:
                size = self._span_size(span)
                self._span_bytes[span.rollout_id] = self._span_bytes.get(span.rollout_id, 0) + size
                self._total_span_bytes += size
            too_many = self._total_span_bytes > self._eviction_bytes
        if too_many:
            await self._memory.execute(self._evict)

    async def _evict(self, rows: LightningCollections) -> None:
        rollouts = await rows.rollouts.query(sort={"name": "start_time", "order": "asc"})
        evicted = 0
        for rollout in rollouts:
            if self._total_span_bytes <= self._safe_bytes:
                break
            size = self._span_bytes.pop(rollout.rollout_id, None)
            if size is None:
                continue
            await self._memory.evict_spans_for_rollout(rollout.rollout_id)
            self._total_span_bytes -= size
            self._evicted.add(rollout.rollout_id)
            evicted += 1
        logger.warning(
            "spans take too much memory, gave up those of the oldest rollouts",
            extra={"rollouts": evicted, "left_bytes": self._total_span_bytes},
        )

    def _spans_removed(self, rollout_ids: Sequence[str]) -> None:
        with self._guard:
            for rollout_id in rollout_ids:
                self._total_span_bytes -= self._span_bytes.pop(rollout_id, 0)

    async def _check_spans_kept(self, rollout_id: str) -> None:
        if rollout_id in self._evicted:
            raise StoreError(
                f"The spans of rollout {rollout_id} were given up to make room in memory; "
                "raise eviction_memory_threshold or use a store on disk."
            )
