"""The state machine of rollouts and attempts, as tables and pure functions.

```
rollout   queuing ─┬─▶ preparing ─▶ running ─┬─▶ succeeded
          requeuing┘◀───────┴──────────┴─────┼─▶ failed
                                             └─▶ cancelled
attempt   preparing ─▶ running ─▶ succeeded | failed | timeout | unresponsive
```

Ended rollouts and attempts never move, with one exception that only a caller's explicit
`start_attempt` takes: a succeeded or failed rollout (never a cancelled one) is opened again.
Functions take records and return new ones; storing them is somebody else's task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentlightning.errors import InvalidTransitionError
from agentlightning.store.record import build, replace
from agentlightning.types import Attempt, AttemptStatus, Rollout, RolloutStatus

__all__ = [
    "ATTEMPT_TRANSITIONS",
    "LATE_STATUS_KEY",
    "LOST_WORKERS_ALLOWED",
    "OUTCOME_KEY",
    "REOPENABLE",
    "ROLLOUT_TRANSITIONS",
    "Outcome",
    "begin_attempt",
    "deadline",
    "expiry",
    "is_active",
    "is_ended",
    "is_fenced",
    "is_waiting",
    "lease_end",
    "lease_ran_out",
    "on_attempt_status",
    "on_rollout_status",
    "on_spans",
    "on_taken_away",
    "rollout_status_after",
]

_ENDS: Final[frozenset[RolloutStatus]] = frozenset({"succeeded", "failed", "cancelled"})

ROLLOUT_TRANSITIONS: Final[Mapping[RolloutStatus, frozenset[RolloutStatus]]] = {
    "queuing": frozenset[RolloutStatus]({"requeuing", "preparing", "running"}) | _ENDS,
    "requeuing": frozenset[RolloutStatus]({"queuing", "preparing", "running"}) | _ENDS,
    "preparing": frozenset[RolloutStatus]({"queuing", "requeuing", "running"}) | _ENDS,
    "running": frozenset[RolloutStatus]({"queuing", "requeuing", "preparing"}) | _ENDS,
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
"""Where a rollout may go from each status; staying is always allowed."""

REOPENABLE: Final[frozenset[RolloutStatus]] = frozenset({"succeeded", "failed"})
"""Ended statuses out of which an explicit `start_attempt` leads."""

_ATTEMPT_ENDS: Final[frozenset[AttemptStatus]] = frozenset(
    {"succeeded", "failed", "timeout", "unresponsive"}
)

ATTEMPT_TRANSITIONS: Final[Mapping[AttemptStatus, frozenset[AttemptStatus]]] = {
    "preparing": frozenset[AttemptStatus]({"running"}) | _ATTEMPT_ENDS,
    "running": _ATTEMPT_ENDS,
    "succeeded": frozenset(),
    "failed": frozenset(),
    "timeout": frozenset(),
    "unresponsive": frozenset(),
}
"""Where an attempt may go from each status; staying is always allowed."""

LATE_STATUS_KEY: Final = "late_status"
"""Attempt metadata: the status that was reported after the attempt had ended with another."""


LOST_WORKERS_ALLOWED: Final = 3
"""Attempts beyond `max_attempts` that a rollout gets because leases ran out. Losing its worker is
not the task's fault, but a task that kills every worker must come to an end."""

OUTCOME_KEY: Final = "outcome"
"""Attempt metadata: the class of what became of it; the store sets it where no worker will."""


@dataclass(slots=True)
class Outcome:
    """What an event leads to; a record that is the one given has not changed."""

    rollout: Rollout
    attempt: Attempt
    requeue: bool = False
    """The rollout must be in the queue, in the same transaction."""
    late: bool = False
    """The event came from an attempt that no longer decides about its rollout."""


def is_active(rollout: Rollout) -> bool:
    """Return whether an attempt is being made, so that its events count."""
    return rollout.status in {"preparing", "running"}


def is_waiting(rollout: Rollout) -> bool:
    """Return whether the rollout belongs into the queue."""
    return rollout.status in {"queuing", "requeuing"}


def is_ended(attempt: Attempt) -> bool:
    """Return whether an attempt is over."""
    return attempt.status in _ATTEMPT_ENDS


def is_fenced(rollout: Rollout, attempt: Attempt, *, latest: bool) -> bool:
    """Return whether an attempt has lost its say: it ended, was replaced or was taken away."""
    return not latest or is_ended(attempt) or not is_active(rollout)


def _with_status(rollout: Rollout, status: RolloutStatus, now: float) -> Rollout:
    if rollout.status == status:
        return rollout
    return replace(rollout, status=status, end_time=now if status in _ENDS else None)


def begin_attempt(
    rollout: Rollout,
    *,
    attempt_id: str,
    sequence_id: int,
    worker_id: str | None,
    now: float,
    lease_seconds: float | None = None,
) -> Outcome:
    """Start an attempt, whatever attempts there were.

    Raises:
        InvalidTransitionError: The rollout is cancelled.
    """
    if rollout.status == "cancelled":
        raise InvalidTransitionError(
            f"Rollout {rollout.rollout_id} is {rollout.status} and takes no further attempt; "
            "enqueue its input as a new rollout instead."
        )
    attempt = build(
        Attempt,
        {
            "rollout_id": rollout.rollout_id,
            "attempt_id": attempt_id,
            "sequence_id": sequence_id,
            "start_time": now,
            "end_time": None,
            "status": "preparing",
            "worker_id": worker_id,
            "last_heartbeat_time": None,
            "metadata": None,
            "lease_seconds": lease_seconds,
        },
    )
    return Outcome(_with_status(rollout, "preparing", now), attempt)


def rollout_status_after(
    rollout: Rollout, attempt: Attempt, *, worker_lost: bool = False
) -> RolloutStatus:
    """Return what the latest attempt's status means for its rollout (retry rules included).

    A lost worker is replaced whatever `retry_condition` says, `LOST_WORKERS_ALLOWED` times beyond
    `max_attempts`.
    """
    status = attempt.status
    if status == "preparing" or status == "running" or status == "succeeded":
        return status
    config = rollout.config
    if worker_lost and attempt.sequence_id < config.max_attempts + LOST_WORKERS_ALLOWED:
        return "requeuing"
    retry = status in config.retry_condition and attempt.sequence_id < config.max_attempts
    return "requeuing" if retry else "failed"


def on_attempt_status(
    rollout: Rollout,
    attempt: Attempt,
    status: AttemptStatus,
    *,
    latest: bool,
    now: float,
    worker_lost: bool = False,
) -> Outcome:
    """Take a new status of an attempt; repeating one changes nothing.

    A status for an attempt that ended with another is kept in its metadata only. A fenced attempt
    may still end, but its rollout does not move.

    Args:
        rollout: The attempt's rollout.
        attempt: As stored.
        status: What it is to become.
        latest: Whether it is the rollout's latest attempt.
        now: Unix seconds.
        worker_lost: It ends because its lease ran out.

    Raises:
        InvalidTransitionError: The attempt is running and cannot become `preparing` again.
    """
    if status == attempt.status:
        return Outcome(rollout, attempt)
    if is_ended(attempt):
        metadata: dict[str, Any] = {**(attempt.metadata or {}), LATE_STATUS_KEY: status}
        return Outcome(rollout, replace(attempt, metadata=metadata), late=True)
    allowed = ATTEMPT_TRANSITIONS[attempt.status]
    if status not in allowed:
        raise InvalidTransitionError(
            f"Attempt {attempt.attempt_id} is {attempt.status} and cannot become {status}; "
            f"allowed: {', '.join(sorted(allowed))}."
        )
    late = is_fenced(rollout, attempt, latest=latest)
    attempt = replace(attempt, status=status, end_time=now if status in _ATTEMPT_ENDS else None)
    if late:
        return Outcome(rollout, attempt, late=True)
    after = rollout_status_after(rollout, attempt, worker_lost=worker_lost)
    moved = _with_status(rollout, after, now)
    return Outcome(moved, attempt, requeue=is_waiting(moved))


def on_spans(rollout: Rollout, attempt: Attempt, *, latest: bool, now: float) -> Outcome:
    """Take the arrival of spans: a sign of life, and the start of work."""
    if is_ended(attempt):
        return Outcome(rollout, attempt, late=True)
    if is_fenced(rollout, attempt, latest=latest):
        return Outcome(rollout, replace(attempt, last_heartbeat_time=now), late=True)
    attempt = replace(attempt, last_heartbeat_time=now, status="running")
    return Outcome(_with_status(rollout, "running", now), attempt)


def on_rollout_status(rollout: Rollout, status: RolloutStatus, *, now: float) -> Rollout:
    """Take a caller's wish for a rollout's status; repeating one changes nothing.

    Raises:
        InvalidTransitionError: The table has no such move.
    """
    allowed = ROLLOUT_TRANSITIONS[rollout.status]
    if status != rollout.status and status not in allowed:
        names = ", ".join(sorted(allowed)) or "none, it has ended"
        raise InvalidTransitionError(
            f"Rollout {rollout.rollout_id} is {rollout.status} and cannot become {status}; "
            f"allowed: {names}."
        )
    return _with_status(rollout, status, now)


def on_taken_away(rollout: Rollout, attempt: Attempt, *, now: float) -> Attempt:
    """End a live attempt whose rollout somebody ended, or put back into the queue.

    It takes over `succeeded` and `failed` from the rollout; else it has failed, and its metadata
    says why: `cancelled`, or `interrupted` when the rollout goes to somebody else. What its worker
    reports later is late.
    """
    if rollout.status == "succeeded":
        return replace(attempt, status="succeeded", end_time=now)
    metadata: dict[str, Any] = dict(attempt.metadata or {})
    if rollout.status != "failed":
        cancelled = rollout.status == "cancelled"
        metadata.setdefault(OUTCOME_KEY, "cancelled" if cancelled else "interrupted")
    return replace(attempt, status="failed", end_time=now, metadata=metadata or attempt.metadata)


def _last_sign(attempt: Attempt) -> float:
    """Return the unix time of the attempt's last sign of life."""
    return attempt.last_heartbeat_time or attempt.start_time


def lease_end(attempt: Attempt, *, reachable_since: float = 0.0) -> float | None:
    """Return the unix time until which a worker has its lease; None without one.

    Args:
        attempt: The attempt.
        reachable_since: When the store was opened: before, nobody could renew anything.
    """
    if attempt.lease_seconds is None:
        return None
    return max(_last_sign(attempt), reachable_since) + attempt.lease_seconds


def lease_ran_out(attempt: Attempt, *, now: float, reachable_since: float = 0.0) -> bool:
    """Return whether a worker has not renewed its lease in time."""
    end = lease_end(attempt, reachable_since=reachable_since)
    return end is not None and now > end


def deadline(rollout: Rollout, attempt: Attempt, *, reachable_since: float = 0.0) -> float | None:
    """Return the unix time after which an attempt is lost; None if it ended or never is."""
    config = rollout.config
    silence = config.unresponsive_seconds
    if config.timeout_seconds is None and silence is None and attempt.lease_seconds is None:
        return None
    if is_ended(attempt):
        return None
    limits: list[float] = []
    if config.timeout_seconds is not None:
        limits.append(attempt.start_time + config.timeout_seconds)
    if silence is not None:
        limits.append(_last_sign(attempt) + silence)
    lease = lease_end(attempt, reachable_since=reachable_since)
    if lease is not None:
        limits.append(lease)
    return min(limits, default=None)


def expiry(
    rollout: Rollout, attempt: Attempt, *, now: float, reachable_since: float = 0.0
) -> AttemptStatus | None:
    """Return how a live attempt has run out of time, or None while it has not.

    The whole duration is checked before the silence and the lease.
    """
    if is_ended(attempt):
        return None
    config = rollout.config
    # Sums as in `deadline`, so that rounding never lets the two disagree.
    timeout = config.timeout_seconds
    if timeout is not None and now > attempt.start_time + timeout:
        return "timeout"
    unresponsive = config.unresponsive_seconds
    if unresponsive is not None and now > _last_sign(attempt) + unresponsive:
        return "unresponsive"
    lost = lease_ran_out(attempt, now=now, reachable_since=reachable_since)
    return "unresponsive" if lost else None
