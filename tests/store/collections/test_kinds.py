"""The kinds of storage, as a backend has to fill them in."""

import inspect

import pytest

from agentlightning.errors import ConflictError
from agentlightning.store import collections
from agentlightning.store.collections import kinds as base


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


def test_duplicate_error_is_what_it_was():
    """A duplicate key is still a ValueError, as in 0.3.0, and a conflict."""
    assert issubclass(collections.DuplicatedPrimaryKeyError, ValueError)
    assert issubclass(collections.DuplicatedPrimaryKeyError, ConflictError)
