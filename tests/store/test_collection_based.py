"""The logic over collections: metrics, debounced scans, users' own backends, model check."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentlightning._internal import clock
from agentlightning._internal.aio import CommittedThenCancelledError, drive
from agentlightning.store.collection_based import CollectionBasedLightningStore
from agentlightning.store.collections import InMemoryLightningCollections, LightningCollections
from agentlightning.store.idempotency import idempotency_key
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import RolloutConfig
from tests.conformance.store_conformance import OldConformance
from tests.conformance.store_spans import make_span


class OldCollections(LightningCollections):
    """A backend as 0.3.0 asked for: one event loop, `atomic` only, no events, no versions."""

    def __init__(self):
        self._inner = InMemoryLightningCollections()
        self._lock = asyncio.Lock()

    rollouts = property(lambda self: self._inner.rollouts)
    attempts = property(lambda self: self._inner.attempts)
    spans = property(lambda self: self._inner.spans)
    resources = property(lambda self: self._inner.resources)
    workers = property(lambda self: self._inner.workers)
    rollout_queue = property(lambda self: self._inner.rollout_queue)
    span_sequence_ids = property(lambda self: self._inner.span_sequence_ids)

    @asynccontextmanager
    async def atomic(self, mode="rw", snapshot=False, commit=False, labels=None, **kwargs):
        assert labels
        async with self._lock:
            await asyncio.sleep(0)
            yield self


class TestOldBackendConformance(OldConformance):
    @pytest_asyncio.fixture
    async def store(self):
        store = CollectionBasedLightningStore(OldCollections(), scan_debounce_seconds=0)
        yield store
        await store.close()

    async def test_resources_are_immutable_and_versioned(self, store):
        """Such a backend keeps no superseded versions, and says None."""
        first = await store.add_resources({})
        second = await store.update_resources(first.resources_id, {})
        assert await store.get_resources_by_id(f"{first.resources_id}@2") == second
        assert await store.get_resources_by_id(f"{first.resources_id}@1") is None

    async def test_silent_attempt_is_taken_away(self, store):
        """Without a watchdog's thread, the next call finds the lost attempt."""
        config = RolloutConfig(
            unresponsive_seconds=0.02, max_attempts=2, retry_condition=["unresponsive"]
        )
        await store.start_rollout(1, config=config)
        await asyncio.sleep(0.05)
        claimed = await store.dequeue_rollout()
        assert claimed is not None
        assert claimed.attempt.sequence_id == 2

    async def test_overlong_attempt_times_out(self, store):
        """Likewise for the time limit."""
        started = await store.start_rollout(1, config=RolloutConfig(timeout_seconds=0.02))
        await asyncio.sleep(0.05)
        rollout = await store.get_rollout_by_id(started.rollout_id)
        assert rollout.status == "failed"
        assert rollout.attempt.status == "timeout"


async def test_claim_that_was_given_back_can_be_repeated(monkeypatch):
    """Who is cancelled just as a claim is stored gives it back, and may claim again by its key."""
    store = InMemoryLightningStore(scan_debounce_seconds=1e9)
    await store.enqueue_rollout(1)
    execute = store.collections.execute

    async def cancel_late(*args, **kwargs):
        result = await execute(*args, **kwargs)
        if kwargs["mode"] == "r":
            return result
        monkeypatch.undo()
        raise CommittedThenCancelledError(result)

    with idempotency_key("claim"):
        monkeypatch.setattr(store.collections, "execute", cancel_late)
        with pytest.raises(asyncio.CancelledError):
            await store.dequeue_rollout()
        claimed = await store.dequeue_rollout()
        assert claimed.attempt.sequence_id == 1
        assert await store.dequeue_rollout() == claimed
    await store.close()


async def test_claims_that_nobody_got_leave_nothing_behind(monkeypatch):
    """Giving claims back frees their worker, and leaves alone what others changed since."""
    store = InMemoryLightningStore(scan_debounce_seconds=1e9)
    ids = [(await store.enqueue_rollout(n)).rollout_id for n in range(3)]
    execute = store.collections.execute

    async def cancel_late(*args, **kwargs):
        result = await execute(*args, **kwargs)
        if kwargs["mode"] == "r":
            return result
        monkeypatch.undo()
        await store.update_rollout(ids[0], status="cancelled")
        await store.start_attempt(ids[1], "other")
        raise CommittedThenCancelledError(result)

    monkeypatch.setattr(store.collections, "execute", cancel_late)
    with pytest.raises(asyncio.CancelledError):
        await store.dequeue_many_rollouts(limit=3, worker_id="w")
    worker = await store.get_worker_by_id("w")
    assert (worker.status, worker.current_attempt_id) == ("idle", None)
    assert (await store.get_rollout_by_id(ids[0])).status == "cancelled"
    assert (await store.get_rollout_by_id(ids[1])).attempt.worker_id == "other"
    assert [claim.rollout_id for claim in await store.dequeue_many_rollouts(limit=3)] == ids[2:]
    await store.close()


async def test_scans_are_debounced():
    """Calls cause a scan at once, and then not before the debounce time is over."""
    scans = 0

    class Counting(InMemoryLightningStore):
        async def scan(self):
            nonlocal scans
            scans += 1
            return await super().scan()

    store = Counting(scan_debounce_seconds=3600)
    for _ in range(3):
        await store.query_rollouts()
    assert scans == 1
    store = Counting(scan_debounce_seconds=0)
    for _ in range(3):
        await store.query_rollouts()
    assert scans == 4


async def test_heartbeat_renews_the_lease():
    """An attempt that gives signs of life in time is not taken away."""
    store = InMemoryLightningStore(scan_debounce_seconds=0)
    started = await store.start_rollout(1, config=RolloutConfig(unresponsive_seconds=1.0))
    for _ in range(6):
        await asyncio.sleep(0.2)
        await store.update_attempt(started.rollout_id, "latest", last_heartbeat_time=clock.now())
    attempt = await store.get_latest_attempt(started.rollout_id)
    assert attempt.status == "preparing"
    await store.close()


async def test_deprecated_filters_warn():
    """The old names of query_rollouts still work, with a warning at the caller's line."""
    store = InMemoryLightningStore()
    queued = await store.enqueue_rollout(1)
    with pytest.warns(DeprecationWarning, match="status_in") as caught:
        found = await store.query_rollouts(status=["queuing"], rollout_ids=[queued.rollout_id])
    assert [r.rollout_id for r in found] == [queued.rollout_id]
    assert caught[0].filename == __file__


async def test_wait_for_one_rollout():
    """wait_for_rollout gives the rollout once it ended, and None when it did not or is unknown."""
    store = InMemoryLightningStore()
    queued = await store.enqueue_rollout(1)
    assert await store.wait_for_rollout(queued.rollout_id, timeout=0.01) is None
    assert await store.wait_for_rollout("ro-none") is None
    await store.update_rollout(queued.rollout_id, status="cancelled")
    assert (await store.wait_for_rollout(queued.rollout_id)).status == "cancelled"


@settings(max_examples=40, stateful_step_count=30, deadline=None)
class StoreAgainstModel(RuleBasedStateMachine):
    """A store in memory against a plain model of queue, statuses and span counts.

    The store in memory never suspends, so that its calls are driven without an event loop.
    """

    @initialize(retries=st.integers(1, 3))
    def open(self, retries):
        self.config = RolloutConfig(max_attempts=retries, retry_condition=["failed"])
        self.store = InMemoryLightningStore(scan_debounce_seconds=3600)
        self.queue: list[str] = []
        self.status: dict[str, str] = {}
        self.live: dict[str, tuple[str, int]] = {}
        self.spans: dict[str, int] = {}

    @rule()
    def enqueue(self):
        rollout = drive(self.store.enqueue_rollout(None, config=self.config))
        self.queue.append(rollout.rollout_id)
        self.status[rollout.rollout_id] = "queuing"

    @rule(limit=st.integers(1, 3))
    def claim(self, limit):
        expected = [r for r in self.queue if self.status[r] in {"queuing", "requeuing"}][:limit]
        claimed = drive(self.store.dequeue_many_rollouts(limit=limit))
        assert [c.rollout_id for c in claimed] == expected
        for claim in claimed:
            self.queue.remove(claim.rollout_id)
            self.status[claim.rollout_id] = "preparing"
            self.live[claim.rollout_id] = (claim.attempt.attempt_id, claim.attempt.sequence_id)

    def pick(self, data, pool):
        # By position, because ids are random and a draw must be repeatable.
        return list(pool)[data.draw(st.integers(0, len(pool) - 1))] if pool else None

    @rule(data=st.data(), status=st.sampled_from(["succeeded", "failed", "running"]))
    def settle(self, data, status):
        rollout_id = self.pick(data, self.live)
        if rollout_id is None:
            return
        attempt_id, number = self.live[rollout_id]
        drive(self.store.update_attempt(rollout_id, attempt_id, status=status))
        if self.status[rollout_id] in {"preparing", "running"}:
            retry = status == "failed" and number < self.config.max_attempts
            self.status[rollout_id] = "requeuing" if retry else status
            if retry:
                self.queue.append(rollout_id)
        if status != "running":
            del self.live[rollout_id]

    @rule(data=st.data(), count=st.integers(1, 3))
    def add_spans(self, data, count):
        rollout_id = self.pick(data, self.live)
        if rollout_id is None:
            return
        owner = drive(self.store.get_rollout_by_id(rollout_id))
        drive(self.store.add_many_spans([make_span(owner) for _ in range(count)]))
        self.spans[rollout_id] = self.spans.get(rollout_id, 0) + count
        if self.status[rollout_id] == "preparing":
            self.status[rollout_id] = "running"

    @rule(data=st.data())
    def cancel(self, data):
        rollout_id = self.pick(
            data, [r for r, s in self.status.items() if s not in {"succeeded", "failed"}]
        )
        if rollout_id is not None:
            drive(self.store.update_rollout(rollout_id, status="cancelled"))
            self.status[rollout_id] = "cancelled"

    @rule(data=st.data())
    def requeue(self, data):
        rollout_id = self.pick(
            data, [r for r, s in self.status.items() if s in {"preparing", "running"}]
        )
        if rollout_id is not None:
            drive(self.store.update_rollout(rollout_id, status="requeuing"))
            self.status[rollout_id] = "requeuing"
            self.queue.append(rollout_id)
            self.live.pop(rollout_id)

    @invariant()
    def statuses_agree(self):
        found = drive(self.store.query_rollouts())
        assert {r.rollout_id: r.status for r in found} == self.status
        ended = {"succeeded", "failed", "cancelled"}
        assert all((r.end_time is not None) == (r.status in ended) for r in found)

    @invariant()
    def spans_are_numbered_without_gaps(self):
        for rollout_id, count in self.spans.items():
            spans = drive(self.store.query_spans(rollout_id))
            assert [s.sequence_id for s in spans] == list(range(1, count + 1))


TestStoreAgainstModel = StoreAgainstModel.TestCase
