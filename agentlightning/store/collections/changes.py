"""What one atomic step of the store writes, gathered so that a backend can write it in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

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

# Perf: each step makes all of these; `dict[str, Rollout]` as a factory takes five times as long.
_dict: Callable[[], Any] = dict
_list: Callable[[], Any] = list


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

    new_rollouts: dict[str, Rollout] = field(default_factory=_dict)
    rollouts: dict[str, Rollout] = field(default_factory=_dict)
    new_attempts: dict[AttemptKey, Attempt] = field(default_factory=_dict)
    attempts: dict[AttemptKey, Attempt] = field(default_factory=_dict)
    removed_attempts: list[Attempt] = field(default_factory=_list)
    new_spans: list[Span] = field(default_factory=_list)
    """Spans that are known to be new (`find_known_spans` was asked), numbered."""
    sequence_ids: dict[str, int] = field(default_factory=_dict)
    """Each rollout's highest sequence id, where it grew."""
    workers: dict[str, Worker] = field(default_factory=_dict)
    """New or updated."""
    resources: list[ResourcesUpdate] = field(default_factory=_list)
    """The newest versions, new or updated."""
    superseded: list[ResourcesUpdate] = field(default_factory=_list)
    """Older versions, to be kept in `resource_versions`."""
    queued: dict[str, None] = field(default_factory=_dict)
    """Rollouts to append to the queue, in order; not in line yet."""
    unqueued: list[str] = field(default_factory=_list)
    """Rollouts to take out of the queue, as `find_queued` gave them."""
    events: list[StoreEvent] = field(default_factory=_list)
    """Events without `seq`; writing gives it to them."""
    reply: Reply | None = None


def by_id(rollouts: Iterable[Rollout]) -> dict[str, Rollout]:
    """Return rollouts by their ids, in order."""
    return {rollout.rollout_id: rollout for rollout in rollouts}
