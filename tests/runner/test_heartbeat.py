"""Heartbeats against the real store."""

import asyncio
import threading

import pytest

from agentlightning.runner.heartbeat import Heartbeat
from agentlightning.runner.snapshot import system_snapshot
from agentlightning.store.memory import InMemoryLightningStore


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
    async with heartbeat.beating(store, "Worker-1"):
        await beats(store, 3)
        names = [thread.name for thread in threading.enumerate()]
        assert ("agl-heartbeat" in names) == (mode == "thread" and thread_safe)
    assert "agl-heartbeat" not in [thread.name for thread in threading.enumerate()]
    await store.close()


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
