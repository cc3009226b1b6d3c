"""The collection in memory: groups, indexes, look-ups."""

import pytest

from agentlightning.store.collections import ListBasedCollection
from agentlightning.types import Attempt, Rollout
from tests.store.collections.model import attempt


def rollout(name, status="queuing") -> Rollout:
    return Rollout(rollout_id=name, input=None, start_time=0.0, status=status)


async def test_index_follows_changes_and_keeps_insertion_order():
    """Records are found by an indexed field as it is now, in order of insertion."""
    table = ListBasedCollection([], Rollout, ["rollout_id"], indexes=["status"])
    await table.insert([rollout(name) for name in "abc"])
    await table.update([rollout("c", "running"), rollout("a", "running")])
    running = await table.query({"status": {"exact": "running"}})
    assert [r.rollout_id for r in running] == ["a", "c"]
    both = await table.query({"status": {"within": ["queuing", "running"]}})
    assert [r.rollout_id for r in both] == ["a", "b", "c"]
    await table.delete([rollout("a")])
    assert [r.rollout_id for r in await table.query({"status": {"exact": "running"}})] == ["c"]


async def test_prefix_is_looked_up():
    """Asking for the first key field touches only its group."""
    table = ListBasedCollection([], Attempt, ["rollout_id", "attempt_id"])
    await table.insert([attempt(f"r{i}", "a") for i in range(5)])

    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError("another group was looked at")

    table._records["r3", "a"] = Untouchable()
    assert len(await table.query({"rollout_id": {"exact": "r1"}})) == 1
    assert len(await table.query({"rollout_id": {"within": ["r1", "r2", "none"]}})) == 2
    assert len(await table.query({"_must": {"rollout_id": {"exact": "r1"}}})) == 1
    assert (
        await table.get({"rollout_id": {"exact": "r4"}, "attempt_id": {"exact": "a"}})
    ).start_time


async def test_revision_counts_changes():
    """Every change moves the revision, and reading does not."""
    table = ListBasedCollection([], Attempt, ["rollout_id", "attempt_id"])
    seen = {table.revision}
    await table.insert([attempt()])
    seen.add(table.revision)
    await table.update([attempt(status="failed")])
    seen.add(table.revision)
    await table.query()
    await table.delete([attempt()])
    seen.add(table.revision)
    assert len(seen) == 4
    assert table.drop_group("none") == 0


def test_key_is_needed():
    """A collection without a primary key is refused."""
    with pytest.raises(ValueError, match="primary key"):
        ListBasedCollection([], Attempt, [])
