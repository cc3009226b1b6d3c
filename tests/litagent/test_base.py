"""The base class of agents."""

import functools
import gc
import pickle
from typing import Any

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.litagent import LitAgent, is_v0_1_rollout_api
from agentlightning.litagent.base import is_async_callable
from agentlightning.litagent.litagent import LitAgent as SamePlace
from agentlightning.runner import Runner


class Sync(LitAgent[Any]):
    def rollout(self, task, resources, rollout):
        return task


class Async(LitAgent[Any]):
    async def rollout_async(self, task, resources, rollout):
        return task


class ValidatesAsync(LitAgent[Any]):
    async def validation_rollout_async(self, task, resources, rollout):
        return task


class Traced(Runner[Any]):
    tracer = "the tracer"


def test_overriding_an_async_method_makes_an_agent_async():
    """An agent is async exactly when it overrides one of the async methods."""
    assert not Sync().is_async()
    assert Async().is_async()
    assert ValidatesAsync().is_async()


async def test_variants_fall_back_to_rollout():
    """Training and validation do what `rollout` does unless they are overridden."""
    assert Sync().training_rollout(1, {}, None) == 1
    assert Sync().validation_rollout(2, {}, None) == 2
    assert await Async().training_rollout_async(3, {}, None) == 3
    assert await Async().validation_rollout_async(4, {}, None) == 4


async def test_an_agent_without_rollout_says_so():
    """Calling what nobody overrode raises with the class's name."""
    with pytest.raises(NotImplementedError, match="Async must override"):
        Async().rollout(1, {}, None)
    with pytest.raises(NotImplementedError, match="Sync must override"):
        await Sync().rollout_async(1, {}, None)


def test_the_runner_is_held_weakly():
    """The agent finds its runner while that lives, and says what is missing afterwards."""
    agent, runner = Sync(), Traced()
    with pytest.raises(ValueError, match="runner of this agent has not been set"):
        agent.get_runner()
    agent.set_runner(runner)
    assert agent.runner is agent.get_runner() is runner
    assert agent.tracer == agent.get_tracer() == "the tracer"
    del runner
    gc.collect()
    with pytest.raises(ConfigurationError, match="no longer exists"):
        agent.get_runner()


def test_the_trainers_tracer_stands_in_for_the_runners():
    """While there is no runner, the tracer is the trainer's."""

    class Trainer:
        tracer = "its tracer"

    agent, trainer = Sync(), Trainer()
    with pytest.raises(ValueError, match="trainer"):
        agent.get_tracer()
    agent.set_trainer(trainer)
    assert agent.trainer is agent.get_trainer() is trainer
    assert agent.tracer == "its tracer"


def test_agents_pickle_without_their_surroundings():
    """A pickled agent keeps its own state and loses runner and trainer."""
    agent, runner = Sync(), Traced()
    agent.level = 3
    agent.set_runner(runner)
    agent.set_trainer(runner)
    copy = pickle.loads(pickle.dumps(agent))
    assert copy.level == 3
    with pytest.raises(ValueError, match="has not been set"):
        copy.get_runner()


def test_trained_agents_is_deprecated():
    """The old selection argument is kept and warned about."""
    with pytest.warns(DeprecationWarning, match="trained_agents"):
        assert LitAgent(trained_agents="a").trained_agents == "a"


def test_the_old_rollout_api_is_recognised():
    """Functions of v0.1 take a rollout id."""
    assert is_v0_1_rollout_api(lambda task, rollout_id, resources: None)
    assert not is_v0_1_rollout_api(lambda task, resources, rollout: None)


def test_the_old_import_path_leads_here():
    """`agentlightning.litagent.litagent` offers the same class."""
    assert SamePlace is LitAgent


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
    assert not is_async_callable(len)
