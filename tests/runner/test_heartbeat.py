"""Heartbeats against the real store."""

import asyncio
import threading
import time

import pytest

from agentlightning.runner.heartbeat import Heartbeat
from agentlightning.runner.snapshot import system_snapshot
from agentlightning.store.memory import InMemoryLightningStore
from tests.support.threads import new_threads


async def beats(store, count):
    """Wait for so many different heartbeats."""
    times = set()
    async with asyncio.timeout(10):
        while len(times) < count:
            worker = await store.get_worker_by_id("Worker-1")
            times.add(worker and worker.last_heartbeat_time)
            times.discard(None)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("mode", ["thread", "asyncio"])
@pytest.mark.parametrize("thread_safe", [True, False])
async def test_hearts_beat_at_intervals(mode, thread_safe):
    """The worker reports itself again and again during the block, and leaves no thread."""
    store = InMemoryLightningStore(thread_safe=thread_safe)
    heartbeat = Heartbeat(interval_seconds=0.02, jitter_seconds=0.01, mode=mode)
    with new_threads() as started:
        async with heartbeat.beating(store, "Worker-1"):
            await beats(store, 3)
            assert bool(started("agl-heartbeat")) == (mode == "thread" and thread_safe)
        assert not started("agl-heartbeat")
    await store.close()


class Running:
    """A claimed attempt that can be told to stop."""

    def __init__(self, claimed):
        self.attempt_id = claimed.attempt.attempt_id
        self.lease_seconds = claimed.attempt.lease_seconds
        self.is_settling = False
        self.stopped = asyncio.get_running_loop().create_future()

    def stop(self, cause):
        if not self.stopped.done():
            self.stopped.set_result(cause)


async def test_leases_are_renewed_while_the_loop_is_blocked():
    """A worker keeps its claims although its agent blocks the event loop beyond the lease."""
    store = InMemoryLightningStore(thread_safe=True, scan_debounce_seconds=0)
    await store.enqueue_rollout(1)
    claimed = await store.dequeue_rollout("Worker-1", lease_seconds=1.5)
    held = {claimed.rollout_id: Running(claimed)}
    async with Heartbeat(interval_seconds=0.05, jitter_seconds=0.0).beating(
        store, "Worker-1", held
    ):
        await beats(store, 1)
        time.sleep(2.5)
        attempt = await store.get_latest_attempt(claimed.rollout_id)
    assert attempt.status == "preparing"
    lost = await store.dequeue_rollout("Worker-2", wait_seconds=30)
    assert lost.rollout_id == claimed.rollout_id
    await store.close()


class Moody(InMemoryLightningStore):
    """A user's own store, which raises whatever it likes the first times."""

    def __init__(self) -> None:
        super().__init__(thread_safe=True)
        self.renewals = self.reports = 2

    async def update_attempt(self, *args, **kwargs):
        self.renewals -= 1
        if self.renewals >= 0:
            raise ValueError("not now")
        return await super().update_attempt(*args, **kwargs)

    async def update_worker(self, *args, **kwargs):
        self.reports -= 1
        if self.reports >= 0:
            raise KeyError("not now")
        return await super().update_worker(*args, **kwargs)


async def test_leases_outlive_a_beat_that_fails():
    """A beat that raises anything is followed by the next, which renews the leases."""
    store = Moody()
    await store.enqueue_rollout(1)
    claimed = await store.dequeue_rollout("Worker-1", lease_seconds=60)
    held = {claimed.rollout_id: Running(claimed)}
    async with Heartbeat(interval_seconds=0.02, jitter_seconds=0.0).beating(
        store, "Worker-1", held
    ):
        await beats(store, 2)
        attempt = await store.get_latest_attempt(claimed.rollout_id)
    assert attempt.last_heartbeat_time is not None
    await store.close()


class Queueing(InMemoryLightningStore):
    """Answers no renewal before all of them have come, as if each took very long."""

    def __init__(self, count: int) -> None:
        super().__init__(thread_safe=True)
        self.missing, self.all_came = count, threading.Event()

    async def update_attempt(self, *args, **kwargs):
        self.missing -= 1
        if self.missing == 0:
            self.all_came.set()
        await asyncio.to_thread(self.all_came.wait, 10)
        return await super().update_attempt(*args, **kwargs)


async def test_no_lease_waits_for_the_renewal_of_another():
    """A renewal that takes long holds up none of the worker's other ones."""
    store = Queueing(3)
    held = {}
    for _ in range(3):
        await store.enqueue_rollout(1)
        claimed = await store.dequeue_rollout("Worker-1", lease_seconds=60)
        held[claimed.rollout_id] = Running(claimed)
    async with Heartbeat(interval_seconds=0.02, jitter_seconds=0.0).beating(
        store, "Worker-1", held
    ):
        assert await asyncio.to_thread(store.all_came.wait, 8)
        await beats(store, 1)
    await store.close()


@pytest.mark.parametrize(
    ("status", "cause"),
    [("cancelled", "cancelled"), ("requeuing", "lost"), ("failed", "cancelled")],
)
async def test_renewal_tells_who_has_lost_its_attempt(status, cause):
    """An attempt that was taken away is stopped by the next beat, in its own event loop."""
    store = InMemoryLightningStore(thread_safe=True)
    await store.enqueue_rollout(1)
    claimed = await store.dequeue_rollout("Worker-1", lease_seconds=60)
    run = Running(claimed)
    heartbeat = Heartbeat(interval_seconds=0.02, jitter_seconds=0.0)
    async with heartbeat.beating(store, "Worker-1", {claimed.rollout_id: run}):
        await beats(store, 2)
        assert not run.stopped.done()
        await store.update_rollout(claimed.rollout_id, status=status)
        assert await asyncio.wait_for(run.stopped, 10) == cause
    await store.close()


def test_only_a_heartbeat_of_its_own_thread_keeps_leases():
    """Where agent code could hold the beat up there is no lease; short ones are lengthened."""
    shared, bound = InMemoryLightningStore(thread_safe=True), InMemoryLightningStore()
    heartbeat = Heartbeat(interval_seconds=10.0, jitter_seconds=0.5)
    assert heartbeat.lease_seconds(shared, 60.0) == 60.0
    assert heartbeat.lease_seconds(shared, 5.0) == 31.5
    assert heartbeat.lease_seconds(shared, None) is None
    assert heartbeat.lease_seconds(bound, 60.0) is None
    assert Heartbeat(interval_seconds=0.0).lease_seconds(shared, 60.0) is None
    in_loop = Heartbeat(interval_seconds=10.0, mode="asyncio")
    assert in_loop.lease_seconds(shared, 60.0) is None


async def test_no_interval_means_no_heartbeat():
    """An interval of 0 reports nothing."""
    store = InMemoryLightningStore()
    async with Heartbeat(interval_seconds=0).beating(store, "Worker-1"):
        await asyncio.sleep(0.05)
    assert await store.get_worker_by_id("Worker-1") is None
    await store.close()


def test_snapshots_have_the_documented_keys():
    """The heartbeat's content keeps its keys."""
    keys = (
        "timestamp host os cpu_name cpu_cores cpu_threads cpu_usage_pct mem_used_gb mem_total_gb "
        "mem_pct disk_used_gb disk_total_gb disk_pct bytes_sent_mb bytes_recv_mb"
    )
    assert list(system_snapshot()) == keys.split()
    assert isinstance(system_snapshot(include_gpu=True)["gpus"], list)
