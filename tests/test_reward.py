"""The deprecated module leads to the emitters."""

import importlib

import pytest

from agentlightning import emitter

# The package's attribute of that name is the decorator.
old = importlib.import_module("agentlightning.reward")


@pytest.mark.parametrize("name", ["reward", "emit_reward", "find_final_reward", "is_reward_span"])
def test_names_have_moved(name):
    """Every name of 0.3.0 is there, with a warning that says where it went."""
    with pytest.warns(DeprecationWarning, match=f"emitter.{name}"):
        assert getattr(old, name) is getattr(emitter, name)


def test_other_names():
    """A name that was never there is an AttributeError."""
    with pytest.raises(AttributeError, match="nothing"):
        _ = old.nothing
