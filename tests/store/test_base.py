"""The contract's base class."""

import inspect

import pytest

from agentlightning.store import base, vocabulary
from agentlightning.store.base import LightningStore


def test_words_are_where_they_were():
    """The contract's words are importable from where 0.3.0 had them."""
    for name in base.__all__:
        if name != "LightningStore":
            assert getattr(base, name) is getattr(vocabulary, name)


async def test_everything_else_is_for_subclasses():
    """The base class supports nothing, says so, and closes."""
    store = LightningStore()
    assert not any(store.capabilities.values())
    assert await store.statistics() == {"name": "LightningStore"}
    await store.close()
    with pytest.raises(NotImplementedError):
        store.otlp_traces_endpoint()
    with pytest.raises(NotImplementedError):
        store.subscribe()
    for name, method in inspect.getmembers(store, inspect.iscoroutinefunction):
        if name in {"statistics", "close"}:
            continue
        required = {
            parameter.name: None
            for parameter in inspect.signature(method).parameters.values()
            if parameter.default is inspect.Parameter.empty
            and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        with pytest.raises(NotImplementedError):
            await method(**required)
