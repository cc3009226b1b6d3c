"""The whole store over a set of collections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from agentlightning.store.base import LightningStoreCapabilities
from agentlightning.store.collection_based.claims import ClaimMethods
from agentlightning.store.collection_based.queries import QueryMethods
from agentlightning.store.collection_based.resources import ResourceMethods
from agentlightning.store.collection_based.retention import RetentionMethods
from agentlightning.store.collection_based.settlement import SettlementMethods
from agentlightning.store.collection_based.transfer import TransferMethods
from agentlightning.store.collection_based.workers import WorkerMethods
from agentlightning.types import StoreEvent
from agentlightning.types.event import StoreEventKind


class CollectionBasedLightningStore(
    ClaimMethods,
    SettlementMethods,
    QueryMethods,
    ResourceMethods,
    WorkerMethods,
    TransferMethods,
    RetentionMethods,
):
    """A store that keeps everything in `collections`, whatever is behind them.

    Args:
        collections: The storage backend.
        read_snapshot: Let reads that take several queries see one moment.
        tracker: A metrics backend that gets `agl.store.total` and `agl.store.latency`.
        scan_debounce_seconds: Shortest time between two looks for lost attempts that calls to
            the store cause; the watchdog looks on its own clock besides. 0 looks at each call.

    Attributes:
        collections: As given.
        tracker: As given.
    """

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities()

    @property
    def is_loop_agnostic(self) -> bool:
        """Whether calls may come from any thread and event loop without a lock around them."""
        return self.collections.loop_agnostic

    def subscribe(
        self,
        *,
        since: int | None = None,
        kinds: Sequence[StoreEventKind] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> AsyncIterator[StoreEvent]:
        self._watch()
        return self._changes.subscribe(since=since, kinds=kinds, metadata=metadata)
