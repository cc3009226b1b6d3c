"""Reading a store's state, and nothing of its data."""

from agentlightning.store.inventory import take_inventory
from agentlightning.store.memory import InMemoryLightningStore
from tests.conformance.store_upkeep import populate


async def test_everything_is_seen():
    """States, references and numbers of every kind of record are there."""
    store = InMemoryLightningStore()
    await populate(store)
    found = await take_inventory(store)
    assert len(found.rollouts) == 7
    assert len(found.attempts) == 3
    assert {"rs", "rs@1", "rs@2"} <= found.resources
    assert [worker.worker_id for worker in found.workers] == ["w"]
    assert len(found.line) == 5
    done = found.rollouts["ro-9"]
    assert (done.status, done.highest, found.counters["ro-9"]) == ("succeeded", 18, 18)
    latest = done.latest()
    assert latest is not None
    assert latest.end_time == done.end_time
    assert not found.ownerless_spans
    assert not found.unfinished_copy
    await store.close()
