"""Functions as algorithms."""

import pytest

from agentlightning.algorithm.decorator import FunctionalAlgorithm, algo
from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStore


async def test_parameters_are_injected_by_name():
    """A function gets exactly the components it declares."""
    seen = {}

    @algo
    async def learn(val_dataset, store, llm_proxy, initial_resources, train_dataset):
        seen.update(locals())

    store = LightningStore()
    learn.set_store(store)
    learn.set_initial_resources({})
    await learn.run(train_dataset=[1], val_dataset=[2])
    assert seen["store"] is store
    assert (seen["train_dataset"], seen["val_dataset"]) == ([1], [2])
    assert (seen["llm_proxy"], seen["initial_resources"]) == (None, {})
    assert isinstance(learn, FunctionalAlgorithm)
    assert learn.is_async()


def test_sync_functions_and_direct_calls():
    """Calling the object calls the function; a sync function stays sync."""

    @algo
    def double(*, x):
        return 2 * x

    assert double(x=3) == 6
    assert not double.is_async()
    assert double.__name__ == "double"


def test_an_undeclared_dataset_is_an_error():
    """A dataset that the function would silently ignore is refused."""

    @algo
    def nothing():
        return None

    with pytest.raises(TypeError, match="no parameter named train_dataset"):
        nothing.run(train_dataset=[1])
    assert nothing.run() is None


def test_a_declared_adapter_must_be_set():
    """A component that is declared and missing is an error."""

    @algo
    def uses(adapter):
        return adapter

    with pytest.raises(ConfigurationError, match="set_adapter"):
        uses.run()


def test_variadic_parameters_get_nothing():
    """`*args` and `**kwargs` are no declaration of anything."""

    @algo
    def loose(*args, **kwargs):
        return args, kwargs

    assert loose.run() == ((), {})
