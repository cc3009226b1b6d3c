"""What must hold of a store after a storm, whoever wrote into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from agentlightning.store.base import LightningStore
from agentlightning.types import Attempt, CallRecord, Rollout, Span, StoreEvent

ENDS = {"succeeded", "failed", "cancelled"}
ATTEMPT_ENDS = {"succeeded", "failed", "timeout", "unresponsive"}
LATE = "agentlightning.late"


async def whole_journal(store: LightningStore) -> list[StoreEvent]:
    """Return every event from the first on."""
    last = await store.last_event_seq()
    found: list[StoreEvent] = []
    async for event in store.subscribe(since=0):
        found.append(event)
        if event.seq >= last:
            break
    return found


def check_every_rollout_ended_once(rollouts: Sequence[Rollout], events: list[StoreEvent]) -> None:
    """Check that each has succeeded, and that its status never moved after its only end."""
    seqs = [event.seq for event in events]
    assert seqs == sorted(set(seqs))
    statuses: dict[str, list[str]] = {}
    for event in events:
        if event.kind in {"rollout_created", "rollout_updated"}:
            statuses.setdefault(str(event.rollout_id), []).append(str(event.status))
    assert set(statuses) == {rollout.rollout_id for rollout in rollouts}
    for rollout in rollouts:
        told = statuses[rollout.rollout_id]
        assert rollout.status == told[-1] == "succeeded"
        assert sum(status in ENDS for status in told) == 1, told


def check_attempts(attempts: Sequence[Attempt]) -> Attempt:
    """Check that all have ended and one succeeded, the last; return it."""
    assert all(attempt.end_time is not None for attempt in attempts)
    assert [attempt.sequence_id for attempt in attempts] == [*range(1, len(attempts) + 1)]
    assert [attempt.status == "succeeded" for attempt in attempts][:-1] == [False] * (
        len(attempts) - 1
    )
    assert attempts[-1].status == "succeeded"
    return attempts[-1]


def asked(span: Span) -> str | None:
    """Return what the model was asked in a recorded call, None if the span is something else."""
    record = CallRecord.from_span(span)
    if record is None:
        return None
    (message,) = record.request["messages"]
    return message["content"]


def check_spans(rollout: Rollout, attempt: Attempt, spans: Sequence[Span], steps: int) -> set[str]:
    """Check that an attempt's spans are complete, single and its own; return what it asked."""
    mine = [span for span in spans if span.attempt_id == attempt.attempt_id]
    ids = Counter((span.attempt_id, span.span_id) for span in spans)
    assert max(ids.values()) == 1
    assert len({span.sequence_id for span in mine}) == len(mine)
    assert {span.rollout_id for span in spans} == {rollout.rollout_id}
    marker = rollout.input["marker"]
    own: list[Any] = [span for span in mine if "marker" in span.attributes]
    assert sorted(span.attributes["step"] for span in own) == list(range(steps))
    assert all(span.attributes["marker"] == marker for span in spans if asked(span) is None)
    texts = [text for span in spans if (text := asked(span)) is not None]
    assert len(texts) == len(set(texts))
    assert all(text.startswith(f"{marker} ") for text in texts)
    return set(texts)


def check_late(
    attempts: Sequence[Attempt], spans: Sequence[Span], events: Sequence[StoreEvent]
) -> int:
    """Check that what came after an attempt's end is marked, nothing else is, and that the
    attempt did not move any more; return how many spans came late.
    """
    ended: dict[str | None, StoreEvent] = {}
    late: Counter[str | None] = Counter()
    for event in events:
        if event.kind == "spans_added" and event.attempt_id in ended:
            late[event.attempt_id] += event.data["count"]
        if event.kind == "attempt_updated" and event.status in ATTEMPT_ENDS:
            ended.setdefault(event.attempt_id, event)
    for attempt in attempts:
        end = ended[attempt.attempt_id]
        assert (attempt.status, attempt.end_time) == (end.status, end.time)
    marked = Counter(span.attempt_id for span in spans if LATE in span.attributes)
    assert marked == late
    return marked.total()
