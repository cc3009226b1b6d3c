"""Batches of a dataset, and components injected by decorator."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.utils import batch_iter_over_dataset, with_llm_proxy, with_store
from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStore


@given(size=st.integers(1, 12), batch=st.integers(1, 15), count=st.integers(1, 20))
def test_batches_never_repeat_an_item_and_cover_all_evenly(size, batch, count):
    """No batch holds an item twice, and after n items each was used n/size times, give or take."""
    used = [0] * size
    batches = itertools.islice(batch_iter_over_dataset(range(size), batch, seed=1), count)
    for items in batches:
        assert len(items) == min(size, batch)
        assert len(set(items)) == len(items)
        for item in items:
            used[item] += 1
    assert max(used) - min(used) <= 2


def test_a_seed_repeats_the_order():
    """The same seed gives the same batches."""
    take = [
        list(itertools.islice(batch_iter_over_dataset(list("abcdefg"), 3, seed=5), 6))
        for _ in range(2)
    ]
    assert take[0] == take[1]


@pytest.mark.parametrize(("data", "size"), [([], 1), ([1], 0)])
def test_impossible_batches_are_refused(data, size):
    """An empty dataset or an empty batch is an error at the call, not at the first item."""
    with pytest.raises(ConfigurationError, match="at least 1"):
        batch_iter_over_dataset(data, size)


class _Proxy:
    def __init__(self, running: bool) -> None:
        self.running, self.calls = running, []

    def is_running(self) -> bool:
        return self.running

    async def start(self) -> None:
        self.calls.append("start")

    async def stop(self) -> None:
        self.calls.append("stop")


class _Stacked(Algorithm):
    @with_llm_proxy()
    @with_store
    async def run(self, store, llm_proxy, train_dataset=None, val_dataset=None):
        self.seen = (store, llm_proxy, train_dataset, val_dataset)


class _NeedsProxy(Algorithm):
    @with_llm_proxy(required=True)
    async def run(self, llm_proxy, train_dataset=None, val_dataset=None):
        self.seen = llm_proxy


async def test_stacked_decorators_inject_store_then_proxy():
    """`with_llm_proxy` above `with_store` calls `run(self, store, llm_proxy, ...)`."""
    algorithm, store, proxy = _Stacked(), LightningStore(), _Proxy(running=False)
    algorithm.set_store(store)
    algorithm.set_llm_proxy(proxy)
    await algorithm.run([1], val_dataset=[2])
    assert algorithm.seen == (store, proxy, [1], [2])
    assert proxy.calls == ["start", "stop"]
    assert algorithm.is_async()


async def test_a_running_proxy_is_left_running():
    """Only a proxy that was started for the call is stopped after it."""
    algorithm, proxy = _NeedsProxy(), _Proxy(running=True)
    algorithm.set_llm_proxy(proxy)
    await algorithm.run()
    assert proxy.calls == []


async def test_a_required_proxy_that_is_missing_is_an_error():
    """The message says where to pass it."""
    with pytest.raises(ConfigurationError, match="llm_proxy="):
        await _NeedsProxy().run()
