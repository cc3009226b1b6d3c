"""One SQLite file in several processes: exact claims, and wake-ups at once."""

import asyncio
import signal
import subprocess
import sys
import threading

import pytest

from agentlightning._internal.clock import monotonic
from agentlightning.store.collections.sql import sqlite_signal
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types import EnqueueRolloutRequest
from tests.support.threads import new_threads

WORKER = """
import asyncio, sys
from agentlightning.store.sqlite import SQLiteLightningStore

async def main():
    store = SQLiteLightningStore(sys.argv[1])

    async def work(name):
        while True:
            claimed = await store.dequeue_rollout(name, wait_seconds=60)
            if claimed is None or claimed.input == "stop":
                return
            await store.finish_rollout(claimed.rollout_id, claimed.attempt.attempt_id)
            print(claimed.rollout_id, flush=True)

    print("ready", flush=True)
    await asyncio.gather(*(work(f"{sys.argv[2]}-{n}") for n in range(2)))
    await store.close()

asyncio.run(main())
"""


def start(path, name):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


async def test_processes_share_a_file(tmp_path):
    """Workers in several processes take every rollout once, woken by what others commit."""
    path = tmp_path / "a.db"
    store = SQLiteLightningStore(path)
    processes = [await asyncio.to_thread(start, path, f"p{n}") for n in range(3)]
    ids = []
    longest = 0.0
    for n in range(20):
        began = monotonic()
        ids.append((await store.enqueue_rollout(n)).rollout_id)
        ended = await store.wait_for_rollouts(rollout_ids=[ids[-1]], timeout=60)
        assert [rollout.status for rollout in ended] == ["succeeded"]
        longest = max(longest, monotonic() - began)
    requests = [EnqueueRolloutRequest(input=n) for n in range(200)]
    ids += [rollout.rollout_id for rollout in await store.enqueue_many_rollouts(requests)]
    assert len(await store.wait_for_rollouts(rollout_ids=ids, timeout=60)) == len(ids)
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input="stop") for _ in range(6)])
    claimed = []
    for process in processes:
        output, _ = await asyncio.to_thread(process.communicate, timeout=60)
        claimed += output.split()
    assert sorted(claimed) == sorted(ids)
    # Far below the ten seconds after which everybody looks by itself.
    assert longest < 8
    assert (await store.statistics())["total_rollouts"] == len(ids) + 6
    await store.close()


async def test_killed_listener_is_forgotten(tmp_path):
    """The socket of a killed process is removed by the next one that finds it dead."""
    path = tmp_path / "a.db"
    store = SQLiteLightningStore(path)
    process = await asyncio.to_thread(start, path, "p")
    folder = sqlite_signal.folder_of(path)
    await store.enqueue_rollout(1)
    assert await asyncio.to_thread(process.stdout.readline)
    assert list(folder.iterdir())
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.communicate)
    await store.enqueue_rollout(2)
    assert not list(folder.iterdir())
    await store.close()


@pytest.mark.parametrize("sockets", [True, False])
async def test_watch_hears_others_only(tmp_path, monkeypatch, sockets):
    """A watch is told what another store of the file commits, until it is stopped."""
    monkeypatch.setattr(sqlite_signal, "_HAS_SOCKETS", sockets)
    one, two = (SQLiteLightningStore(tmp_path / "a.db") for _ in range(2))
    heard = threading.Semaphore(0)
    with new_threads() as started:
        stop = one.collections.watch(heard.release)
        # The first call is for what came before.
        assert await asyncio.to_thread(heard.acquire, timeout=30)
        while await asyncio.to_thread(heard.acquire, timeout=0.2):
            pass
        if sockets:
            await one.enqueue_rollout(1)
            assert not await asyncio.to_thread(heard.acquire, timeout=0.2)
        await two.enqueue_rollout(2)
        assert await asyncio.to_thread(heard.acquire, timeout=30)
        stop()
        stop()
        await two.enqueue_rollout(3)
        assert not started("agentlightning-listener")
    await one.close()
    await two.close()


async def test_folder_of_another_is_not_trusted(tmp_path, monkeypatch):
    """Where the folder for sockets may be entered by others, the file is looked at instead."""
    monkeypatch.setattr(sqlite_signal.tempfile, "gettempdir", lambda: str(tmp_path))
    one, two = (SQLiteLightningStore(tmp_path / "a.db") for _ in range(2))
    folder = sqlite_signal.folder_of(tmp_path / "a.db")
    folder.parent.mkdir(mode=0o755)
    waiting = asyncio.create_task(one.dequeue_rollout("w", wait_seconds=60))
    await asyncio.sleep(0.1)
    began = monotonic()
    await two.enqueue_rollout(1)
    assert (await waiting).input == 1
    assert monotonic() - began < 8
    assert not folder.exists()
    await one.close()
    await two.close()
