"""What a connection knows without asking: bounded, and less of what has ended."""

import gc
from pathlib import Path

from agentlightning.store.collections.sql.cache import RecordCache
from agentlightning.store.collections.sql.sqlite_connection import SqliteConnection
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types import Rollout


def kept(prefix: str) -> int:
    """Return how many rollouts of these ids this process holds."""
    gc.collect()
    # By their types: `isinstance` asks the objects, and some of other libraries' warn.
    found = [each for each in gc.get_objects() if issubclass(type(each), Rollout)]
    return len({each.rollout_id for each in found if each.rollout_id.startswith(prefix)})


async def test_ended_rollouts_leave_memory(tmp_path: Path) -> None:
    """However many rollouts have ended, a store on disk holds only the last of them."""
    store = SQLiteLightningStore(tmp_path / "store.db")
    try:
        for batch in range(8):
            ids = [f"kept-{batch}-{index}" for index in range(100)]
            for rollout_id in ids:
                await store.start_rollout({"task": "a" * 100}, rollout_id=rollout_id)
                await store.update_rollout(rollout_id, status="succeeded")
        assert kept("kept-") <= 300
        # What is asked for again is there, and does not stay either.
        for index in range(100):
            assert (await store.update_rollout(f"kept-0-{index}", metadata={"a": 1})).status
        assert kept("kept-") <= 300
    finally:
        await store.close()


def test_open_rollouts_stay() -> None:
    """A rollout that has not ended is not given up for those that have."""
    cache = RecordCache()
    cache.note(Rollout(rollout_id="open", input=None, start_time=0.0, status="running"))
    for index in range(1000):
        name = f"ended-{index}"
        cache.note(Rollout(rollout_id=name, input=None, start_time=0.0, status="failed"))
        cache.sequence_ids.put(name, 1)
    assert cache.rollouts.get("open") is not None
    assert cache.rollouts.get("ended-999") is not None
    assert cache.rollouts.get("ended-0") is None
    assert cache.sequence_ids.get("ended-0") is None


def test_a_connection_keeps_few_pages(tmp_path: Path) -> None:
    """What a connection to a file keeps of it is 8 MiB at most, however large the file."""
    connection = SqliteConnection(tmp_path / "store.db")
    try:
        assert connection.run("PRAGMA cache_size") == [(-8192,)]
    finally:
        connection.close()
