"""What one atomic step of the store writes, gathered so that a backend can write it in one go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from agentlightning.types import (
    Attempt,
    ResourcesUpdate,
    Rollout,
    Span,
    StoreEvent,
    Worker,
)

AttemptKey = tuple[str, str]
"""`rollout_id` and `attempt_id`."""

REPLY_SECONDS: Final = 3600.0
"""How long replies are kept at least; who repeats a call does so within minutes."""


@dataclass(slots=True)
class Reply:
    """What a call answered, kept so that a repeat of the call answers the same and does nothing."""

    key: str
    """The caller's idempotency key."""
    time: float
    """Unix seconds; replies are forgotten some time later."""
    refs: list[list[str | int]]
    """What the answer was made of, such as (rollout id, attempt id); read anew for a repeat."""


@dataclass(slots=True)
class Changes:
    """Everything that a step wants written, all of it or nothing.

    A record is in at most one of `new_*` and its update twin. Updated records were read by the
    same step, so that a backend may check that nobody changed them since.
    """

    new_rollouts: dict[str, Rollout] = field(default_factory=dict[str, Rollout])
    rollouts: dict[str, Rollout] = field(default_factory=dict[str, Rollout])
    new_attempts: dict[AttemptKey, Attempt] = field(default_factory=dict[AttemptKey, Attempt])
    attempts: dict[AttemptKey, Attempt] = field(default_factory=dict[AttemptKey, Attempt])
    removed_attempts: list[Attempt] = field(default_factory=list[Attempt])
    new_spans: list[Span] = field(default_factory=list[Span])
    """Spans that are known to be new (`find_known_spans` was asked), numbered."""
    sequence_ids: dict[str, int] = field(default_factory=dict[str, int])
    """Each rollout's highest sequence id, where it grew."""
    workers: dict[str, Worker] = field(default_factory=dict[str, Worker])
    """New or updated."""
    resources: list[ResourcesUpdate] = field(default_factory=list[ResourcesUpdate])
    """The newest versions, new or updated."""
    superseded: list[ResourcesUpdate] = field(default_factory=list[ResourcesUpdate])
    """Older versions, to be kept in `resource_versions`."""
    queued: dict[str, None] = field(default_factory=dict[str, None])
    """Rollouts to append to the queue, in order; not in line yet."""
    unqueued: list[str] = field(default_factory=list[str])
    """Rollouts to take out of the queue, as `find_queued` gave them."""
    events: list[StoreEvent] = field(default_factory=list[StoreEvent])
    """Events without `seq`; writing gives it to them."""
    reply: Reply | None = None


def by_id(rollouts: Iterable[Rollout]) -> dict[str, Rollout]:
    """Return rollouts by their ids, in order."""
    return {rollout.rollout_id: rollout for rollout in rollouts}
