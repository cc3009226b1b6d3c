"""Records as values: the cheap copies by which they change.

Stored records are never changed in place: an update stores a new object. Copies are shallow, so
nested values (`input`, `metadata`, span attributes) are shared and must be treated as read-only.
Rollouts share equal configs, so whoever is outside of the store gets a config of its own.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

from agentlightning._internal.record import build
from agentlightning.types import Attempt, AttemptedRollout, Rollout, RolloutConfig

__all__ = ["attempted", "build", "detached", "replace", "view"]

M = TypeVar("M", bound=BaseModel)


def replace(record: M, **changes: Any) -> M:
    """Return a shallow copy with some fields changed; values are not validated."""
    extra = record.__pydantic_extra__
    return build(
        type(record),
        {**record.__dict__, **changes},
        extra.copy() if extra else extra,
    )


def _own_config(config: RolloutConfig) -> RolloutConfig:
    retry_condition = list(config.retry_condition)
    return build(RolloutConfig, {**config.__dict__, "retry_condition": retry_condition})


def detached(rollout: Rollout) -> Rollout:
    """Return a copy for somebody outside of the store."""
    return build(Rollout, {**rollout.__dict__, "config": _own_config(rollout.config)})


def attempted(rollout: Rollout, attempt: Attempt) -> AttemptedRollout:
    """Return a copy of the rollout together with one of its attempts, likewise."""
    fields = {**rollout.__dict__, "config": _own_config(rollout.config)}
    fields["attempt"] = build(Attempt, attempt.__dict__.copy())
    return build(AttemptedRollout, fields)


def view(rollout: Rollout, attempt: Attempt | None) -> Rollout | AttemptedRollout:
    """Return what readers get: the rollout, with its latest attempt if it has one."""
    return detached(rollout) if attempt is None else attempted(rollout, attempt)
