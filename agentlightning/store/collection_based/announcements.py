"""The events that a step gives rise to, made of the records that it changed."""

from __future__ import annotations

from typing import Any

from agentlightning.store.record import build
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, StoreEvent, Worker
from agentlightning.types.event import StoreEventKind


def _event(
    kind: StoreEventKind,
    time: float,
    data: dict[str, Any],
    *,
    rollout_id: str | None = None,
    attempt_id: str | None = None,
    resources_id: str | None = None,
    worker_id: str | None = None,
    status: str | None = None,
) -> StoreEvent:
    # Perf: a step makes up to five of these, and all of their fields come from valid records.
    return build(
        StoreEvent,
        {
            "seq": 0,
            "kind": kind,
            "time": time,
            "rollout_id": rollout_id,
            "attempt_id": attempt_id,
            "resources_id": resources_id,
            "worker_id": worker_id,
            "status": status,
            "data": data,
        },
    )


def rollout_event(kind: StoreEventKind, rollout: Rollout, time: float) -> StoreEvent:
    """Tell of a rollout."""
    return _event(
        kind,
        time,
        {"mode": rollout.mode, "metadata": rollout.metadata},
        rollout_id=rollout.rollout_id,
        resources_id=rollout.resources_id,
        status=rollout.status,
    )


def attempt_event(
    kind: StoreEventKind, rollout: Rollout, attempt: Attempt, time: float, **data: Any
) -> StoreEvent:
    """Tell of an attempt."""
    return _event(
        kind,
        time,
        {"mode": rollout.mode, "metadata": rollout.metadata, **data},
        rollout_id=rollout.rollout_id,
        attempt_id=attempt.attempt_id,
        worker_id=attempt.worker_id,
        status=attempt.status,
    )


def resources_event(resources: ResourcesUpdate, time: float) -> StoreEvent:
    """Tell of a new snapshot."""
    return _event(
        "resources_updated",
        time,
        {"version": resources.version},
        resources_id=resources.resources_id,
    )


def worker_event(worker: Worker, time: float) -> StoreEvent:
    """Tell of a worker."""
    return _event(
        "worker_updated",
        time,
        {},
        worker_id=worker.worker_id,
        rollout_id=worker.current_rollout_id,
        attempt_id=worker.current_attempt_id,
        status=worker.status,
    )
