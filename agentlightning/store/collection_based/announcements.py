"""The events that a step gives rise to, made of the records that it changed."""

from __future__ import annotations

from typing import Any

from agentlightning.store.collections.changes import Told
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Worker
from agentlightning.types.event import StoreEventKind


def rollout_event(kind: StoreEventKind, rollout: Rollout, time: float) -> Told:
    """Tell of a rollout."""
    data = {"mode": rollout.mode, "metadata": rollout.metadata}
    ids = (rollout.rollout_id, None, rollout.resources_id, None)
    return (kind, time, *ids, rollout.status, data)


def attempt_event(
    kind: StoreEventKind,
    rollout: Rollout,
    attempt: Attempt,
    time: float,
    *,
    count: int | None = None,
) -> Told:
    """Tell of an attempt, and of `count` spans that it got."""
    data: dict[str, Any] = {"mode": rollout.mode, "metadata": rollout.metadata}
    if count is not None:
        data["count"] = count
    ids = (attempt.rollout_id, attempt.attempt_id, None, attempt.worker_id)
    return (kind, time, *ids, attempt.status, data)


def resources_event(resources: ResourcesUpdate, time: float) -> Told:
    """Tell of a new snapshot."""
    data = {"version": resources.version}
    ids = (None, None, resources.resources_id, None)
    return ("resources_updated", time, *ids, None, data)


def worker_event(worker: Worker, time: float) -> Told:
    """Tell of a worker."""
    ids = (worker.current_rollout_id, worker.current_attempt_id, None, worker.worker_id)
    return ("worker_updated", time, *ids, worker.status, {})
