"""The events that a step gives rise to, made of the records that it changed.

Perf: each is built in one go of fields that are known to be valid; a step makes up to five.
"""

from __future__ import annotations

from typing import Any

from agentlightning.store.record import build
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, StoreEvent, Worker
from agentlightning.types.event import StoreEventKind


def rollout_event(kind: StoreEventKind, rollout: Rollout, time: float) -> StoreEvent:
    """Tell of a rollout."""
    return build(
        StoreEvent,
        {
            "seq": 0,
            "kind": kind,
            "time": time,
            "rollout_id": rollout.rollout_id,
            "attempt_id": None,
            "resources_id": rollout.resources_id,
            "worker_id": None,
            "status": rollout.status,
            "data": {"mode": rollout.mode, "metadata": rollout.metadata},
        },
    )


def attempt_event(
    kind: StoreEventKind,
    rollout: Rollout,
    attempt: Attempt,
    time: float,
    *,
    count: int | None = None,
) -> StoreEvent:
    """Tell of an attempt, and of `count` spans that it got."""
    data: dict[str, Any] = {"mode": rollout.mode, "metadata": rollout.metadata}
    if count is not None:
        data["count"] = count
    return build(
        StoreEvent,
        {
            "seq": 0,
            "kind": kind,
            "time": time,
            "rollout_id": attempt.rollout_id,
            "attempt_id": attempt.attempt_id,
            "resources_id": None,
            "worker_id": attempt.worker_id,
            "status": attempt.status,
            "data": data,
        },
    )


def resources_event(resources: ResourcesUpdate, time: float) -> StoreEvent:
    """Tell of a new snapshot."""
    return build(
        StoreEvent,
        {
            "seq": 0,
            "kind": "resources_updated",
            "time": time,
            "rollout_id": None,
            "attempt_id": None,
            "resources_id": resources.resources_id,
            "worker_id": None,
            "status": None,
            "data": {"version": resources.version},
        },
    )


def worker_event(worker: Worker, time: float) -> StoreEvent:
    """Tell of a worker."""
    return build(
        StoreEvent,
        {
            "seq": 0,
            "kind": "worker_updated",
            "time": time,
            "rollout_id": worker.current_rollout_id,
            "attempt_id": worker.current_attempt_id,
            "resources_id": None,
            "worker_id": worker.worker_id,
            "status": worker.status,
            "data": {},
        },
    )
