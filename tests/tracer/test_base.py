"""A user's own tracer needs to override little."""

import pytest

from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer import Tracer


class Logging(Tracer):
    """Notes its life cycle."""

    def __init__(self):
        self.notes = []

    def init(self, *args, **kwargs):
        self.notes.append("init")

    def init_worker(self, worker_id, store=None, *args, **kwargs):
        super().init_worker(worker_id, store)
        self.notes.append(("init_worker", worker_id, self._store is store))

    def teardown_worker(self, worker_id, *args, **kwargs):
        self.notes.append(("teardown_worker", worker_id))

    def teardown(self, *args, **kwargs):
        self.notes.append("teardown")


async def test_lifespan_and_defaults():
    """The life cycle is run in order, also after an error; exporting is optional."""
    tracer, store = Logging(), InMemoryLightningStore()
    with pytest.raises(KeyError), tracer.lifespan(store):
        assert await tracer.flush("ro-1", "at-1")
        assert tracer.export_counts("ro-1", "at-1") == (0, 0)
        raise KeyError
    assert tracer.notes == [
        "init",
        ("init_worker", 0, True),
        ("teardown_worker", 0),
        "teardown",
    ]
    await store.close()
