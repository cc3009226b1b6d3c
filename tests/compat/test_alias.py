"""The spelling `agent_lightning` names the same modules and objects."""

import importlib
import pickle
import subprocess
import sys

import pytest

import agent_lightning
import agentlightning


def test_submodules_are_the_same_objects():
    """A module imported under either name is one module, with its own name."""
    alias = importlib.import_module("agent_lightning.types.rollout")
    real = importlib.import_module("agentlightning.types.rollout")
    assert alias is real
    assert real.__name__ == "agentlightning.types.rollout"
    assert real.__spec__ is not None
    assert real.__spec__.name == "agentlightning.types.rollout"


def test_root_names_and_attributes_are_the_same_objects():
    """Names of the root, and submodules reached through it, are shared."""
    from agent_lightning.types import Rollout

    assert Rollout is importlib.import_module("agentlightning.types").Rollout
    assert agent_lightning.types is agentlightning.types
    assert set(agent_lightning.__dir__()) == set(dir(agentlightning))


def test_unknown_modules_and_names_raise_as_usual():
    """What does not exist raises the usual errors."""
    with pytest.raises(ModuleNotFoundError, match=r"agent_lightning\.nothing"):
        importlib.import_module("agent_lightning.nothing")
    with pytest.raises(AttributeError):
        _ = agent_lightning.nothing


def test_objects_pickle_under_the_real_name():
    """What one process pickles can be read by one that never heard of the alias."""
    from agent_lightning.errors import MissingExtraError

    data = pickle.dumps(MissingExtraError("x", "y"))
    assert b"agent_lightning" not in data
    assert isinstance(pickle.loads(data), MissingExtraError)


def test_alias_first_import_order_works():
    """Importing a deep module by the alias before anything else gives the real one."""
    code = (
        "import agent_lightning.types.rollout as a, agentlightning.types.rollout as b; "
        "print(a is b, a.__spec__.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["True", "agentlightning.types.rollout"]


def test_module_runs_as_a_program_under_the_alias():
    """`python -m agent_lightning.<module>` runs the module."""
    done = subprocess.run(
        [sys.executable, "-m", "agent_lightning.settings"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
