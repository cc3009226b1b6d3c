"""The events that a step gives rise to, made of the records that it changed."""

from __future__ import annotations

from typing import Any

from agentlightning.store.record import build
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, StoreEvent, Worker
from agentlightning.types.event import StoreEventKind


def _event(
    kind: StoreEventKind,
    time: float,
    rollout_id: str | None,
    attempt_id: str | None,
    resources_id: str | None,
    worker_id: str | None,
    status: str | None,
    data: dict[str, Any],
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
    data = {"mode": rollout.mode, "metadata": rollout.metadata}
    return _event(
        kind, time, rollout.rollout_id, None, rollout.resources_id, None, rollout.status, data
    )


def attempt_event(
    kind: StoreEventKind, rollout: Rollout, attempt: Attempt, time: float, **data: Any
) -> StoreEvent:
    """Tell of an attempt; `data` is added to what is said of its rollout."""
    data = {"mode": rollout.mode, "metadata": rollout.metadata, **data}
    ids = (attempt.rollout_id, attempt.attempt_id)
    return _event(kind, time, *ids, None, attempt.worker_id, attempt.status, data)


def resources_event(resources: ResourcesUpdate, time: float) -> StoreEvent:
    """Tell of a new snapshot."""
    data = {"version": resources.version}
    return _event("resources_updated", time, None, None, resources.resources_id, None, None, data)


def worker_event(worker: Worker, time: float) -> StoreEvent:
    """Tell of a worker."""
    ids = (worker.current_rollout_id, worker.current_attempt_id)
    return _event("worker_updated", time, *ids, None, worker.worker_id, worker.status, {})
