"""How a worker's record follows from what it does, as pure functions."""

from __future__ import annotations

from typing import Any

from agentlightning.store.record import replace
from agentlightning.types import Attempt, Worker


def busy(worker: Worker, attempt: Attempt, *, now: float, claimed: bool) -> Worker:
    """Return the worker as it works on an attempt; `claimed` says that it came out of the queue."""
    changes: dict[str, Any] = {"last_dequeue_time": now} if claimed else {}
    return replace(
        worker,
        status="busy",
        last_busy_time=now,
        current_rollout_id=attempt.rollout_id,
        current_attempt_id=attempt.attempt_id,
        **changes,
    )


def ended(worker: Worker, attempt: Attempt, *, now: float, taken: bool = False) -> Worker:
    """Return the worker after its attempt ended; who lost one, or had it taken away without
    knowing it yet, may be lost itself.
    """
    lost = taken or attempt.status in {"timeout", "unresponsive"}
    return replace(
        worker,
        status="unknown" if lost else "idle",
        last_idle_time=now,
        current_rollout_id=None,
        current_attempt_id=None,
    )


def without_work(worker: Worker, *, now: float) -> Worker:
    """Return the worker after it found the queue empty."""
    if worker.status == "idle":
        return replace(worker, last_dequeue_time=now)
    return replace(
        worker,
        status="idle",
        last_dequeue_time=now,
        last_idle_time=now,
        current_rollout_id=None,
        current_attempt_id=None,
    )
