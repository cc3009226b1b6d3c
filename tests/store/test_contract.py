"""The rollout half of the contract, as implementations have to spell it."""

import inspect

import pytest

from agentlightning.store.contract import RolloutContract
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.threading import LightningStoreThreaded


@pytest.mark.parametrize("kind", [InMemoryLightningStore, LightningStoreThreaded])
def test_signatures_are_those_of_the_contract(kind):
    """Stores take every parameter of the contract, under its name, in its order."""
    for name, method in inspect.getmembers(RolloutContract, inspect.iscoroutinefunction):
        wanted = inspect.signature(method).parameters
        given = inspect.signature(getattr(kind, name)).parameters
        assert list(given) == list(wanted), name
        for parameter in wanted.values():
            assert given[parameter.name].kind is parameter.kind, (name, parameter)
            assert given[parameter.name].default == parameter.default, (name, parameter)


async def test_listing_is_querying():
    """`list_rollouts` takes what `query_rollouts` takes."""
    store = InMemoryLightningStore()
    await store.enqueue_rollout(1, metadata={"a": 1})
    await store.enqueue_rollout(2)
    assert [r.input for r in await store.list_rollouts(metadata={"a": 1})] == [1]
