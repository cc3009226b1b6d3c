"""Records as values: the cheap copies by which they change.

Stored records are never changed in place: an update stores a new object. Copies are shallow, so
nested values (`input`, `metadata`, span attributes) are shared and must be treated as read-only.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

from agentlightning._internal.record import build
from agentlightning.types import Attempt, AttemptedRollout, Rollout

__all__ = ["attempted", "build", "replace", "view"]

M = TypeVar("M", bound=BaseModel)


def replace(record: M, **changes: Any) -> M:
    """Return a shallow copy with some fields changed; values are not validated."""
    extra = record.__pydantic_extra__
    return build(
        type(record),
        {**record.__dict__, **changes},
        extra.copy() if extra else extra,
    )


def attempted(rollout: Rollout, attempt: Attempt) -> AttemptedRollout:
    """Return the rollout together with one of its attempts; both are copied."""
    fields = dict(rollout.__dict__)
    fields["attempt"] = replace(attempt)
    return build(AttemptedRollout, fields)


def view(rollout: Rollout, attempt: Attempt | None) -> Rollout | AttemptedRollout:
    """Return what readers get: the rollout, with its latest attempt if it has one."""
    return replace(rollout) if attempt is None else attempted(rollout, attempt)
