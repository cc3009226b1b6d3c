"""What became of one attempt: its class, its status, and the record of its error. Pure."""

from __future__ import annotations

import traceback
from typing import Any, Literal

from agentlightning.errors import AgentTimeoutError, RolloutError
from agentlightning.types import AttemptedRollout, AttemptStatus, Rollout

__all__ = [
    "RolloutStoppedError",
    "StopCause",
    "attempt_status",
    "error_record",
    "outcome_of",
    "stop_cause",
]

StopCause = Literal["cancelled", "interrupted", "lost", "timeout"]
"""Why a running attempt is stopped: somebody ended the rollout; this worker must stop and gives
the rollout back; somebody else has the rollout now; the store saw its time run out."""

_TRACEBACK_CHARACTERS = 8_000


class RolloutStoppedError(RolloutError):
    """The attempt was stopped from outside while the agent ran."""

    def __init__(self, cause: StopCause) -> None:
        """Remember why."""
        super().__init__(f"The rollout was stopped before its agent finished ({cause}).")
        self.cause: StopCause = cause

    def __reduce__(self) -> tuple[type[RolloutStoppedError], tuple[StopCause]]:
        return type(self), (self.cause,)


def outcome_of(error: RolloutError | None) -> str:
    """Return the outcome class that the attempt's metadata names.

    Example:
        >>> outcome_of(None), outcome_of(RolloutStoppedError("lost"))
        ('ok', 'interrupted')
    """
    if error is None:
        return "ok"
    if isinstance(error, RolloutStoppedError):
        return "interrupted" if error.cause == "lost" else error.cause
    return error.code


def attempt_status(error: RolloutError | None) -> AttemptStatus:
    """Return the status that an attempt ends with."""
    if error is None:
        return "succeeded"
    return "timeout" if outcome_of(error) == AgentTimeoutError.code else "failed"


def error_record(error: BaseException) -> dict[str, str]:
    """Return type, message and traceback of an error, of its cause if it has one.

    Long tracebacks keep their end, which names the line that raised.
    """
    cause = error.__cause__ or error
    text = "".join(traceback.format_exception(cause))
    return {
        "type": type(cause).__name__,
        "message": str(cause),
        "traceback": text[-_TRACEBACK_CHARACTERS:],
    }


def stop_cause(rollout: Rollout | AttemptedRollout | None, attempt_id: str) -> StopCause | None:
    """Return why a worker must stop its attempt, judging by the rollout as the store has it.

    Args:
        rollout: The rollout with its latest attempt; None when it was removed.
        attempt_id: The attempt that the worker is executing.
    """
    if rollout is None or rollout.status == "cancelled":
        return "cancelled"
    attempt: Any = getattr(rollout, "attempt", None)
    if attempt is None or attempt.attempt_id != attempt_id:
        return "lost"
    if attempt.status == "timeout":
        return "timeout"
    if rollout.status in {"queuing", "requeuing"}:
        return "lost"
    return "cancelled" if rollout.status in {"succeeded", "failed"} else None
