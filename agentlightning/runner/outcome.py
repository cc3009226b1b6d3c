"""What became of one attempt: its class, its status, and the record of its error. Pure."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any, Literal

from agentlightning.errors import (
    AgentError,
    AgentTimeoutError,
    BudgetExceededError,
    ContextLengthError,
    EngineError,
    RolloutError,
)
from agentlightning.runner.seal import SealReport
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

_OVERFLOW = "overflow"

_CLIENT_LIBRARIES = frozenset(
    {"aiohttp", "anthropic", "httpcore", "httpx", "litellm", "openai", "requests", "urllib3"}
)
_SERVER_FAULTS = frozenset({"upstream_error", "timeout", "rate_limited", "unavailable", "paused"})
"""Codes of failed calls that are the model server's or the gateway's doing."""

_TRACEBACK_CHARACTERS = 8_000


class RolloutStoppedError(RolloutError):
    """The attempt was stopped from outside while the agent ran."""

    def __init__(self, cause: StopCause) -> None:
        """Remember why."""
        super().__init__(f"The rollout was stopped before its agent finished ({cause}).")
        self.cause: StopCause = cause

    def __reduce__(self) -> tuple[type[RolloutStoppedError], tuple[StopCause]]:
        return type(self), (self.cause,)


def outcome_of(error: RolloutError | None, calls: SealReport | None = None) -> str:
    """Return the outcome class that the attempt's metadata names.

    Args:
        error: Why the attempt failed, if it did.
        calls: What became of its model calls. An agent that raised after one of them was refused
            for its length or for the budget has `overflow` or `budget_exceeded`; one whose client
            raised because the server or the gateway failed has `engine_error`.

    Example:
        >>> outcome_of(None), outcome_of(RolloutStoppedError("lost"))
        ('ok', 'interrupted')
    """
    if error is None:
        return "ok"
    if isinstance(error, RolloutStoppedError):
        return "interrupted" if error.cause == "lost" else error.cause
    if calls is not None and isinstance(error, AgentError):
        return _outcome_of_calls(error, calls) or error.code
    return error.code


def _outcome_of_calls(error: AgentError, calls: SealReport) -> str | None:
    if calls.errors.get(ContextLengthError.code):
        return _OVERFLOW
    if calls.errors.get(BudgetExceededError.code):
        return BudgetExceededError.code
    failed = calls.is_gateway_lost or any(code in _SERVER_FAULTS for code in calls.errors)
    return EngineError.code if failed and any(_is_clients(each) for each in _chain(error)) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__


def _is_clients(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _CLIENT_LIBRARIES


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
