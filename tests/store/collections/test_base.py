"""The seam: what a backend gets for free, and what it must provide."""

import inspect
from contextlib import asynccontextmanager

import pytest

from agentlightning.errors import ConflictError
from agentlightning.store import collection, collections
from agentlightning.store.collections import base


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


async def test_everything_else_is_for_backends():
    """Operations that a backend lacks say so."""
    for kind in (base.Collection, base.Queue, base.KeyValue, base.EventJournal):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if name.startswith("_"):
                continue
            count = sum(
                parameter.default is inspect.Parameter.empty
                for parameter in inspect.signature(method).parameters.values()
            )
            with pytest.raises(NotImplementedError):
                result = method(kind(), *[None] * (count - 1))
                await result


def test_old_import_path():
    """0.3.0's `store.collection` offers the same objects."""
    for name in collection.__all__:
        assert getattr(collection, name) is getattr(collections, name)


def test_duplicate_error_is_what_it_was():
    """A duplicate key is still a ValueError, as in 0.3.0, and a conflict."""
    assert issubclass(collections.DuplicatedPrimaryKeyError, ValueError)
    assert issubclass(collections.DuplicatedPrimaryKeyError, ConflictError)
