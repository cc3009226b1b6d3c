"""The seam: what a backend gets for free, and what it must provide."""

from contextlib import asynccontextmanager

import pytest_asyncio

from agentlightning.store import collection, collections
from agentlightning.store.collection_based import CollectionBasedLightningStore
from agentlightning.store.collections import base
from agentlightning.store.collections.changes import Changes
from agentlightning.store.collections.memory import InMemoryLightningCollections
from tests.conformance.store_conformance import OldConformance


async def test_execute_opens_a_block():
    """A backend with `atomic` alone gets `execute`, with the arguments passed on."""

    class Backend(base.LightningCollections):
        opened = None

        @asynccontextmanager
        async def atomic(self, **kwargs):
            self.opened = kwargs
            yield self

    backend = Backend()

    async def step(rows):
        return rows

    assert await backend.execute(step, mode="r", labels=["spans"], extra=1) is backend
    assert backend.opened == {
        "mode": "r", "snapshot": False, "commit": False, "labels": ["spans"], "extra": 1,
    }  # fmt: skip
    assert backend.events is None
    assert backend.resource_versions is None
    await backend.close()


def test_old_import_path():
    """0.3.0's `store.collection` offers the same objects."""
    for name in collection.__all__:
        assert getattr(collection, name) is getattr(collections, name)


class Old(InMemoryLightningCollections):
    """Memory that answers the store's questions by the seam's own means only."""


for name in vars(base.LightningCollections):
    if name.startswith(("find_", "apply", "_apply", "count_", "remove")):
        setattr(Old, name, getattr(base.LightningCollections, name))


class TestDefaults(OldConformance):
    """The seam's defaults are enough for a whole store."""

    @pytest_asyncio.fixture
    async def store(self):
        store = CollectionBasedLightningStore(Old())
        yield store
        await store.close()


async def test_default_queue_keeps_places():
    """Values are taken out of the middle of a queue, and the others keep their order."""
    rows = Old()
    await rows.rollout_queue.enqueue(["a", "b", "c", "d"])
    await rows.apply(Changes(unqueued=["c", "a", "gone"], queued={"e": None}))
    assert await rows.find_queued(9) == ["b", "d", "e"]
    await rows.apply(Changes(unqueued=["b"]))
    assert await rows.find_queued(1, 1) == ["e"]


def test_nothing_is_watched_by_default():
    """A backend that cannot tell of others' commits says None."""
    assert Old().watch(print) is None
