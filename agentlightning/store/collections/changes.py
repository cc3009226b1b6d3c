"""What one atomic step of the store writes, gathered so that a backend can write it in one go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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


@dataclass(slots=True)
class Reply:
    """What a call answered, kept so that a repeat of the call answers the same and does nothing."""

    key: str
    """The caller's idempotency key."""
    time: float
    """Unix seconds; replies are forgotten some time later."""
    refs: list[list[str | int]]
    """What the answer was made of, such as (rollout id, attempt id); read anew for a repeat."""


@dataclass(slots=True, init=False)
class Changes:
    """Everything that a step wants written, all of it or nothing.

    A record is in at most one of `new_*` and its update twin. Updated records were read by the
    same step, so that a backend may check that nobody changed them since.
    """

    new_rollouts: dict[str, Rollout]
    rollouts: dict[str, Rollout]
    new_attempts: dict[AttemptKey, Attempt]
    attempts: dict[AttemptKey, Attempt]
    removed_attempts: list[Attempt]
    new_spans: list[Span]
    """Spans that are known to be new (`find_known_spans` was asked), numbered."""
    sequence_ids: dict[str, int]
    """Each rollout's highest sequence id, where it grew."""
    workers: dict[str, Worker]
    """New or updated."""
    resources: list[ResourcesUpdate]
    """The newest versions, new or updated."""
    superseded: list[ResourcesUpdate]
    """Older versions, to be kept in `resource_versions`."""
    queued: dict[str, None]
    """Rollouts to append to the queue, in order; not in line yet."""
    unqueued: list[str]
    """Rollouts to take out of the queue, as `find_queued` gave them."""
    events: list[StoreEvent]
    """Events without `seq`; writing gives it to them."""
    reply: Reply | None

    def __init__(self, **given: Any) -> None:
        """Begin with nothing but the fields that are given."""
        # Perf: each step makes all of these; a generated constructor takes three times as long.
        self.new_rollouts = {}
        self.rollouts = {}
        self.new_attempts = {}
        self.attempts = {}
        self.removed_attempts = []
        self.new_spans = []
        self.sequence_ids = {}
        self.workers = {}
        self.resources = []
        self.superseded = []
        self.queued = {}
        self.unqueued = []
        self.events = []
        self.reply = None
        for name, value in given.items():
            setattr(self, name, value)


def by_id(rollouts: Iterable[Rollout]) -> dict[str, Rollout]:
    """Return rollouts by their ids, in order."""
    return {rollout.rollout_id: rollout for rollout in rollouts}
