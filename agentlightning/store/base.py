"""The store's contract: what every other room knows of it, each signature once.

Implementations and wrappers derive from `LightningStore`. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from agentlightning.store.contract import RolloutContract
from agentlightning.store.vocabulary import (
    UNSET,
    FilterLogic,
    LightningStoreCapabilities,
    LightningStoreStatistics,
    SortOrder,
    Unset,
    is_finished,
    is_queuing,
    is_running,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.store.retention import RetentionPolicy, RetentionReport
    from agentlightning.store.transfer import RecordPage
    from agentlightning.types import (
        NamedResources,
        ResourcesUpdate,
        Span,
        StoreEvent,
        Worker,
        WorkerStatus,
    )
    from agentlightning.types.event import StoreEventKind

__all__ = [
    "UNSET",
    "FilterLogic",
    "LightningStore",
    "LightningStoreCapabilities",
    "LightningStoreStatistics",
    "SortOrder",
    "Unset",
    "is_finished",
    "is_queuing",
    "is_running",
]


class LightningStore(RolloutContract):
    """Keeps rollouts, attempts, spans, resources and workers, and hands out work.

    All methods are coroutines that may be called from any event loop that the store's
    capabilities allow. A method that a store does not support raises `NotImplementedError`.

    Every write may be repeated. What it makes has an identity that the caller may give (span ids,
    `rollout_id`, `attempt_id`, `resources_id`), and a repeat finds it. Calls whose result the store
    chooses (claims, sequence ids, new versions, changes of "the latest" attempt) are told apart by
    `agentlightning.store.idempotency.idempotency_key`: a repeat with the same key, within the hour,
    gets the same answer, its records as they are now, and changes nothing. A repeated `dequeue_*`
    leaves out claims that were lost meanwhile, and claims anew if that leaves none.
    """

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """Return what this store can do; all False unless overridden."""
        return LightningStoreCapabilities(
            thread_safe=False, async_safe=False, zero_copy=False, otlp_traces=False
        )

    async def statistics(self) -> LightningStoreStatistics:
        """Return counts; cheap enough to be asked every second."""
        return {"name": type(self).__name__}

    def otlp_traces_endpoint(self) -> str:
        """Return the URL that takes OTLP/HTTP traces, ending in `/v1/traces`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Release connections and background work; idempotent."""

    # Spans.

    async def add_span(self, span: Span) -> Span | None:
        """Store one span; None when this span was stored before.

        Raises:
            NotFoundError: Its rollout or attempt is unknown.
        """
        raise NotImplementedError

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        """Store several spans and return those that were new.

        A span with sequence id 0 gets the next one of its rollout. A span of an ended or
        replaced attempt is kept, marked `agentlightning.late`, and changes no status.

        Raises:
            NotFoundError: A rollout or attempt is unknown; then none of the spans is stored.
        """
        raise NotImplementedError

    async def add_otel_span(
        self,
        rollout_id: str,
        attempt_id: str,
        readable_span: ReadableSpan,
        sequence_id: int | None = None,
    ) -> Span | None:
        """Store an OpenTelemetry span as part of an attempt."""
        raise NotImplementedError

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Reserve the next sequence id of a rollout."""
        raise NotImplementedError

    async def get_many_span_sequence_ids(
        self, rollout_attempt_ids: Sequence[tuple[str, str]]
    ) -> Sequence[int]:
        """Reserve one sequence id per pair of ids, in order."""
        raise NotImplementedError

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
        """Return a page of a rollout's spans; with no filter, all of them."""
        raise NotImplementedError

    # Resources.

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
        """Return a page of snapshots, the newest version of each id."""
        raise NotImplementedError

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        """Return a snapshot: the newest version of an id, or the one of `<id>@<version>`."""
        raise NotImplementedError

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """Return the snapshot that was made last, or None."""
        raise NotImplementedError

    async def add_resources(
        self, resources: NamedResources, *, resources_id: str | None = None
    ) -> ResourcesUpdate:
        """Publish resources under a new id, at version 1.

        Args:
            resources: By name.
            resources_id: An id made by the caller; resources that are there under it already are
                returned as they are, in their newest version, and nothing is published.
        """
        raise NotImplementedError

    async def update_resources(
        self, resources_id: str, resources: NamedResources
    ) -> ResourcesUpdate:
        """Publish the next version of an id (version 1 when it is new); older ones stay."""
        raise NotImplementedError

    # Workers.

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
        """Return a page of workers."""
        raise NotImplementedError

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        """Return one worker, or None."""
        raise NotImplementedError

    async def update_worker(
        self, worker_id: str, heartbeat_stats: dict[str, Any] | Unset = UNSET
    ) -> Worker:
        """Record a heartbeat; an unknown worker is added."""
        raise NotImplementedError

    # Events.

    def subscribe(
        self,
        *,
        since: int | None = None,
        kinds: Sequence[StoreEventKind] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> AsyncIterator[StoreEvent]:
        """Yield changes as they happen, in order, until the iterator is closed.

        Args:
            since: Replay what came after this `seq` first; None starts with what comes next.
            kinds: Only events of these kinds.
            metadata: Only events of rollouts whose metadata holds all of these pairs.
        """
        raise NotImplementedError

    # Whole records.

    async def export_records(
        self, kind: str, *, after: str | None = None, limit: int = 1000
    ) -> RecordPage:
        """Return the next records of a kind as text, in order of insertion.

        Records that are added while somebody pages through come last; none is seen twice.

        Args:
            kind: One of `agentlightning.store.transfer.KINDS`.
            after: `next` of the page before; None begins.
            limit: How many at most, from 1 to 10,000; large records make a page end earlier.

        Raises:
            InvalidRequestError: The kind, the cursor or the limit is none.
        """
        raise NotImplementedError("This store does not export its records.")

    async def import_records(self, kind: str, records: Sequence[str]) -> int:
        """Store records as they are, and return how many of them were new or different.

        Ids, times, statuses and numbers are taken over without a check of the state machine; a
        record that is there already is replaced, except for spans, which never change. May be
        repeated. Records come in the order of `KINDS`: what belongs to a rollout after it.

        Raises:
            InvalidRequestError: The kind is none, or a text is no record of it.
        """
        raise NotImplementedError("This store does not import records.")

    async def last_event_seq(self) -> int:
        """Return the `seq` of the newest event, 0 when there was none: where a reader that keeps
        its own cursor begins.
        """
        raise NotImplementedError

    # Retention.

    async def mark_read(self, rollout_ids: Sequence[str]) -> int:
        """Say that all that is needed of these rollouts has been read, so that a policy may
        remove it.

        A rollout that has not ended, or is unknown, is passed over; one that is opened again
        counts as unread from then on. May be repeated.

        Returns:
            How many of them are marked now.
        """
        raise NotImplementedError("This store does not mark rollouts as read.")

    async def apply_retention(
        self, policy: RetentionPolicy, *, dry_run: bool = False
    ) -> RetentionReport:
        """Remove what a policy no longer keeps; never what has not ended or was not marked read.

        Works in many small steps; one that is interrupted has removed some of it.

        Args:
            policy: What to keep.
            dry_run: Remove nothing, and report what would be.
        """
        raise NotImplementedError("This store has no retention policies.")
