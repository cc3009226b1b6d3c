"""Waiting across store objects: who waits at one is woken by what another commits."""

import asyncio
import threading

import pytest

from agentlightning.errors import StoreUnavailableError
from agentlightning.store.collection_based import CollectionBasedLightningStore
from agentlightning.store.collections import InMemoryLightningCollections
from agentlightning.store.collections.base import DuplicatedPrimaryKeyError
from agentlightning.store.collections.changes import Changes
from agentlightning.store.events import RECHECK_SECONDS
from tests.support.threads import new_threads

IN_TIME = RECHECK_SECONDS / 2
"""Who is woken is quicker than who looks by itself."""


class SharedCollections(InMemoryLightningCollections):
    """Memory that several stores share, each of which hears of every commit."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def watch(self, notify):
        self.heard.append(notify)
        return lambda: self.heard.remove(notify)

    async def apply(self, changes: Changes) -> None:
        await super().apply(changes)
        for notify in self.heard:
            # From another thread, as databases do, and after the block.
            threading.Timer(0.01, notify).start()


@pytest.fixture
async def pair():
    """Two stores over the same records."""
    rows = SharedCollections()
    with new_threads() as started:
        stores = [CollectionBasedLightningStore(rows, scan_debounce_seconds=0.05) for _ in range(2)]
        yield stores
        for store in stores:
            await store.close()
        assert not rows.heard
        assert not started("agentlightning-follower")


async def test_claim_is_woken_by_another_store(pair):
    """Work that comes in elsewhere goes to who waits here, again and again."""
    here, there = pair
    for number in range(3):
        claim = asyncio.create_task(here.dequeue_rollout(wait_seconds=30))
        await asyncio.sleep(0.05)
        queued = await there.enqueue_rollout(number)
        claimed = await asyncio.wait_for(claim, IN_TIME)
        assert claimed is not None
        assert claimed.rollout_id == queued.rollout_id


async def test_wait_is_woken_by_another_store(pair):
    """A rollout that ends elsewhere wakes who waits for it here."""
    here, there = pair
    started = await there.start_rollout(1)
    wait = asyncio.create_task(here.wait_for_rollouts(rollout_ids=[started.rollout_id]))
    await asyncio.sleep(0.05)
    await there.update_attempt(started.rollout_id, "latest", status="succeeded")
    (ended,) = await asyncio.wait_for(wait, IN_TIME)
    assert ended.status == "succeeded"


async def test_subscriber_sees_both_stores_in_order(pair):
    """Events of both stores reach a subscriber of one, each once and in order."""
    here, _ = pair
    events = here.subscribe(since=0, kinds=["rollout_created"])
    waiting = asyncio.create_task(anext(events))
    await asyncio.sleep(0.05)
    ids = []
    for number in range(6):
        ids.append((await pair[number % 2].enqueue_rollout(number)).rollout_id)
    async with asyncio.timeout(IN_TIME):
        seen = [await waiting] + [await anext(events) for _ in range(5)]
    await events.aclose()
    assert [event.rollout_id for event in seen] == ids


async def test_lost_attempt_of_a_dead_process_is_found(pair):
    """Whoever waits takes over work whose worker was lost together with its store."""
    here, there = pair
    claim = asyncio.create_task(here.dequeue_rollout("b", wait_seconds=30))
    await asyncio.sleep(0.05)
    await there.start_rollout(1, worker_id="a", lease_seconds=0.3)
    await there.close()
    claimed = await asyncio.wait_for(claim, IN_TIME)
    assert claimed is not None
    assert (claimed.attempt.sequence_id, claimed.attempt.worker_id) == (2, "b")


async def test_follower_that_comes_too_late_wakes_everybody(pair):
    """When events were forgotten before they were read, nobody is left asleep."""
    here, there = pair
    rows = here.collections
    rows.events.__init__(kept=2)
    claim = asyncio.create_task(here.dequeue_rollout(wait_seconds=30))
    await asyncio.sleep(0.05)
    await there.update_worker("w")
    await asyncio.sleep(0.1)
    rows.heard, heard = [], rows.heard
    first = await there.enqueue_rollout(0)
    for _ in range(4):
        await there.update_worker("w")
    rows.heard = heard
    await there.update_worker("w")
    claimed = await asyncio.wait_for(claim, IN_TIME)
    assert claimed is not None
    assert claimed.rollout_id == first.rollout_id


class Failing(InMemoryLightningCollections):
    """Memory whose next writes fail."""

    def __init__(self):
        super().__init__()
        self.failures = []

    async def apply(self, changes: Changes) -> None:
        if self.failures:
            raise self.failures.pop(0)
        await super().apply(changes)


async def test_step_that_cannot_be_written_has_done_nothing():
    """A failed write leaves no record, no event and nobody woken; a conflict is tried again."""
    rows = Failing()
    store = CollectionBasedLightningStore(rows)
    rows.failures = [StoreUnavailableError("gone")]
    with pytest.raises(StoreUnavailableError):
        await store.enqueue_rollout(1)
    assert await store.last_event_seq() == 0
    assert not await store.query_rollouts()
    rows.failures = [DuplicatedPrimaryKeyError("quicker")] * 3
    await store.enqueue_rollout(1)
    assert await store.last_event_seq() == 1
    rows.failures = [DuplicatedPrimaryKeyError("quicker")] * 9
    with pytest.raises(DuplicatedPrimaryKeyError):
        await store.enqueue_rollout(1)
    assert len(rows.failures) == 5
    await store.close()
