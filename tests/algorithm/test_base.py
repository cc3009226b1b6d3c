"""What every algorithm remembers and forgets."""

import pickle

import pytest

from agentlightning.algorithm.base import Algorithm
from agentlightning.errors import ConfigurationError


class _Thing:
    """Something that can be weakly referenced."""


@pytest.mark.parametrize("what", ["trainer", "adapter"])
def test_components_are_held_weakly(what):
    """A component that nobody else keeps is gone, and asking for it says so."""
    algorithm, thing = Algorithm(), _Thing()
    getattr(algorithm, f"set_{what}")(thing)
    assert getattr(algorithm, f"get_{what}")() is thing
    del thing
    with pytest.raises(ConfigurationError, match="no longer exists"):
        getattr(algorithm, f"get_{what}")()


@pytest.mark.parametrize("what", ["trainer", "adapter", "store"])
def test_components_that_were_never_set_are_an_error(what):
    """The message says how to set them; it is a ValueError as in 0.3.0."""
    with pytest.raises(ValueError, match=r"Trainer\.fit"):
        getattr(Algorithm(), f"get_{what}")()


def test_no_proxy_is_not_an_error():
    """An algorithm may do without a proxy."""
    algorithm = Algorithm()
    assert algorithm.get_llm_proxy() is None


def test_an_algorithm_pickles_without_its_weak_references():
    """What lives in this process stays here; the rest travels."""
    algorithm, thing = Algorithm(), _Thing()
    algorithm.set_trainer(thing)
    algorithm.set_initial_resources({})
    copy = pickle.loads(pickle.dumps(algorithm))
    assert copy.get_initial_resources() == {}
    with pytest.raises(ConfigurationError):
        copy.get_trainer()


def test_resume_is_refused_where_nothing_is_kept():
    """An algorithm without state says so instead of starting over."""
    assert Algorithm().prepare(resume=None) is None
    with pytest.raises(ConfigurationError, match="keeps no state"):
        Algorithm().prepare(resume=True)


def test_run_must_be_overridden():
    """The base class does nothing by itself."""
    with pytest.raises(NotImplementedError, match="Algorithm must override run"):
        Algorithm()()
