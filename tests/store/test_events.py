"""Wake-ups and subscriptions over a journal."""

import asyncio

import pytest

from agentlightning.errors import ConflictError
from agentlightning.store.collections.memory import MemoryJournal
from agentlightning.store.events import ChangeLog, Completions
from agentlightning.types import StoreEvent


def event(kind="worker_updated", **fields) -> StoreEvent:
    return StoreEvent(seq=0, kind=kind, time=0.0, **fields)


async def write(log: ChangeLog, *events: StoreEvent) -> None:
    await log.journal.append(events)
    log.announce(events)


async def test_journal_numbers_and_forgets():
    """Events are numbered from 1; only the last ones are kept, and a gap is an error."""
    journal = MemoryJournal(kept=3)
    await journal.append([event() for _ in range(5)])
    assert await journal.last_seq() == 5
    assert [e.seq for e in await journal.read(2)] == [3, 4, 5]
    assert [e.seq for e in await journal.read(4)] == [5]
    assert [e.seq for e in await journal.read(2, limit=1)] == [3]
    assert list(await journal.read(5)) == []
    assert list(await journal.read(9)) == []
    with pytest.raises(ConflictError, match="no longer kept"):
        await journal.read(1)


async def test_subscription_starts_at_the_call():
    """Without `since`, what happens between the call and the first read is not missed."""
    log = ChangeLog(MemoryJournal())
    early = log.subscribe()
    await write(log, event(worker_id="a"))
    later = log.subscribe()
    await write(log, event(worker_id="b"))
    async with asyncio.timeout(10):
        assert (await anext(early)).worker_id == "a"
        assert (await anext(later)).worker_id == "b"
    await early.aclose()
    await later.aclose()


async def test_metadata_filter_needs_every_pair():
    """An event passes if its rollout's metadata holds all pairs asked for, None values included."""
    log = ChangeLog(MemoryJournal())
    events = log.subscribe(metadata={"a": 1, "b": None})
    await write(
        log,
        event(),
        event("rollout_created", data={"metadata": {"a": 1}}),
        event("rollout_created", data={"metadata": None}),
        event("rollout_created", data={"metadata": {"a": 1, "b": None, "c": 2}}),
    )
    async with asyncio.timeout(10):
        assert (await anext(events)).seq == 4
    await events.aclose()


async def test_completion_fires_with_the_last():
    """A wait is fired when its last rollout ended, and forgotten afterwards."""
    completions = Completions()
    both = completions.watch(["a", "b"])
    one = completions.watch(["b"])
    completions.finished("b")
    assert await one.waiter.wait(10) is True
    assert await both.waiter.wait(0) is False
    both = completions.watch(["a", "b"])
    completions.settle(both, ["b"])
    completions.finished("a")
    assert await both.waiter.wait(10) is True
    completions.leave(both, ["a", "b"])
    completions.finished("a")


async def test_only_queued_rollouts_wake_workers():
    """Waiting claims are woken by queued rollouts, as many as there are of those."""
    log = ChangeLog(MemoryJournal())
    waiters = [log.work.join() for _ in range(3)]
    await write(
        log,
        event("rollout_updated", rollout_id="a", status="running"),
        event("rollout_created", rollout_id="b", status="queuing"),
        event("rollout_updated", rollout_id="c", status="requeuing"),
    )
    assert [await w.wait(0) for w in waiters] == [True, True, False]
