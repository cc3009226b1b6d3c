"""What one atomic step of the store writes, gathered so that a backend can write it in one go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from agentlightning._internal.record import build
from agentlightning.types import (
    Attempt,
    ResourcesUpdate,
    Rollout,
    Span,
    StoreEvent,
    Worker,
)
from agentlightning.types.event import StoreEventKind

AttemptKey = tuple[str, str]
"""`rollout_id` and `attempt_id`."""

Told = tuple[
    StoreEventKind,
    float,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    dict[str, Any],
]
"""An event's values but `seq`: kind, time, ids of rollout, attempt, resources and worker, status,
data. Perf: a step tells of up to five things, and a record of each would cost ten times as much."""

_TOLD_FIELDS: Final = tuple(name for name in StoreEvent.model_fields if name != "seq")

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
    told: list[Told]
    """What the step gives rise to, in order."""
    last_seq: int | None
    """The last event's number, set by a backend that writes `told` without making records of it."""
    reply: Reply | None
    _events: list[StoreEvent] | None

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
        self.told = []
        self.last_seq = None
        self.reply = None
        self._events = None
        for name, value in given.items():
            setattr(self, name, value)

    @property
    def events(self) -> list[StoreEvent]:
        """The events without `seq`, made when first asked for; writing gives it to them."""
        if self._events is None:
            self._events = [store_event(0, values) for values in self.told]
        return self._events

    @events.setter
    def events(self, events: list[StoreEvent]) -> None:
        self._events = events


def store_event(seq: int, values: Told) -> StoreEvent:
    """Return what was told as a record."""
    return build(StoreEvent, {"seq": seq, **dict(zip(_TOLD_FIELDS, values, strict=True))})


def by_id(rollouts: Iterable[Rollout]) -> dict[str, Rollout]:
    """Return rollouts by their ids, in order."""
    return {rollout.rollout_id: rollout for rollout in rollouts}
