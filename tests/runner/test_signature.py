"""Fitting arguments to signatures."""

import functools

import pytest

from agentlightning.runner.signature import fitting_arguments, is_async_callable

OFFERED = {"a": 1, "b": 2}


def takes_all(**kwargs):
    """Take anything."""


def takes_one(x, *, a):
    """Take `a` only."""


def takes_none(a, /):
    """Take `a` by position only."""


@pytest.mark.parametrize(
    ("func", "expected"),
    [(takes_all, OFFERED), (takes_one, {"a": 1}), (takes_none, {})],
)
def test_only_declared_parameters_are_passed(func, expected):
    """A function gets what it can take by name."""
    assert fitting_arguments(func, OFFERED) == expected


def test_async_callables_are_recognised():
    """Coroutine functions, partials of them and objects with an async call count."""

    async def func():
        """Do nothing."""

    class Callable:
        async def __call__(self):
            """Do nothing."""

    assert is_async_callable(func)
    assert is_async_callable(functools.partial(func))
    assert is_async_callable(Callable())
    assert not is_async_callable(takes_all)
