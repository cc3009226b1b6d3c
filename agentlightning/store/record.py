"""Records as values: the cheap copies by which stored models change.

Stored records are never changed in place: an update stores a new object. Copies are shallow, so
nested values (`input`, `metadata`, span attributes) are shared and must be treated as read-only.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

from agentlightning.types import Attempt, AttemptedRollout, Rollout

M = TypeVar("M", bound=BaseModel)


def replace(record: M, **changes: Any) -> M:
    """Return a shallow copy with some fields changed; values are not validated.

    Perf: about 1 µs, a quarter of `model_copy(update=...)`.
    """
    twin = record.__copy__()
    vars(twin).update(changes)
    twin.__pydantic_fields_set__.update(changes)
    return twin


def attempted(rollout: Rollout, attempt: Attempt) -> AttemptedRollout:
    """Return the rollout together with one of its attempts; both are copied."""
    return AttemptedRollout.model_construct(
        attempt=attempt.__copy__(),
        rollout_id=rollout.rollout_id,
        input=rollout.input,
        start_time=rollout.start_time,
        end_time=rollout.end_time,
        mode=rollout.mode,
        resources_id=rollout.resources_id,
        status=rollout.status,
        config=rollout.config,
        metadata=rollout.metadata,
    )


def view(rollout: Rollout, attempt: Attempt | None) -> Rollout | AttemptedRollout:
    """Return what readers get: the rollout, with its latest attempt if it has one."""
    return rollout.__copy__() if attempt is None else attempted(rollout, attempt)
