"""The words of the store's contract: capabilities, statistics, and what statuses mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypedDict

if TYPE_CHECKING:
    from agentlightning.types import Rollout


SortOrder = Literal["asc", "desc"]
FilterLogic = Literal["and", "or"]


class Unset:
    """Type of `UNSET`, which says that a field was not given; there is one instance."""

    _instance: Unset | None = None

    def __new__(cls) -> Unset:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> tuple[type[Unset], tuple[()]]:
        return Unset, ()


UNSET: Final = Unset()
"""Default of update parameters: leave the field as it is (None would clear it)."""


class LightningStoreCapabilities(TypedDict, total=False):
    """What a store can do beyond the contract."""

    thread_safe: bool
    """Calls may come from several threads at once."""
    async_safe: bool
    """Calls may be interleaved within one event loop."""
    zero_copy: bool
    """The object may be used in other processes as it is (it talks to a server)."""
    otlp_traces: bool
    """`otlp_traces_endpoint` gives a URL that takes OTLP/HTTP."""


class LightningStoreStatistics(TypedDict, total=False):
    """Counts and sizes; what a store cannot tell is left out."""

    name: str
    total_rollouts: int
    total_attempts: int
    total_spans: int
    total_resources: int
    total_workers: int
    uptime: float
    """Seconds since the store was opened."""
    rollouts_by_status: dict[str, int]
    """How many rollouts have each status; those that none has are left out."""
    queue_length: int
    """Ids in line; some may be of rollouts that no longer wait."""
    oldest_queued_seconds: float
    """Age of the rollout at the head of the queue; left out when none waits."""
    removed_spans: int
    """Spans that retention policies removed since the store was opened."""
    storage_bytes: int
    """What the whole store takes on disk."""
    total_span_bytes: int
    """What spans take in memory, about."""
    eviction_threshold_bytes: int
    safe_threshold_bytes: int
    memory_capacity_bytes: int


def is_finished(rollout: Rollout) -> bool:
    """Return whether a rollout has ended and will not move again."""
    return rollout.status in {"succeeded", "failed", "cancelled"}


def is_queuing(rollout: Rollout) -> bool:
    """Return whether a rollout waits to be claimed."""
    return rollout.status in {"queuing", "requeuing"}


def is_running(rollout: Rollout) -> bool:
    """Return whether a worker has claimed the rollout and not yet ended it."""
    return rollout.status in {"preparing", "running"}
