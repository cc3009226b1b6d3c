"""Fitting arguments to signatures."""

import pytest

from agentlightning.runner.signature import fitting_arguments

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
