"""The base of every agent: which methods a user overrides, and what they may return.

Running an agent (threads, time limits, rewards) is the runner's work, not this module's.
"""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.runner.base import Runner
    from agentlightning.tracer.base import Tracer
    from agentlightning.trainer.trainer import Trainer
    from agentlightning.types import NamedResources, Rollout, RolloutRawResult

__all__ = ["LitAgent", "is_async_callable", "is_v0_1_rollout_api"]

T = TypeVar("T")

_ASYNC_METHODS = ("rollout_async", "training_rollout_async", "validation_rollout_async")


def is_async_callable(func: Callable[..., Any]) -> bool:
    """Return whether calling `func` gives a coroutine; objects with `async __call__` count."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)


def is_v0_1_rollout_api(func: Callable[..., Any]) -> bool:
    """Return whether a function takes a `rollout_id`, as agents of v0.1 did."""
    return "rollout_id" in inspect.signature(func).parameters


def _alive(reference: weakref.ref[Any] | None, what: str) -> Any:
    target = reference() if reference is not None else None
    if target is None:
        state = "has not been set" if reference is None else "no longer exists"
        raise ConfigurationError(
            f"The {what} of this agent {state}; it is there while Trainer.fit or "
            "Runner.run_context runs the agent."
        )
    return target


class LitAgent(Generic[T]):
    """Executes one task with the resources it is given.

    Override `rollout` or `rollout_async`, or their `training_` and `validation_` variants when
    the two differ. A rollout of mode `train` goes to the training variant, any other mode to the
    validation variant. One agent object serves many rollouts at once, from several threads or
    tasks: keep the state of a rollout in local variables.

    An agent returns its reward (a number, or a dict of numbers whose primary one is named
    `primary` or `reward`, else comes first), a list of spans, or None when it emitted what there
    is to say. Where a `reward_fn` grades, it may return any JSON value.
    """

    _trainer_ref: weakref.ref[Trainer] | None = None
    _runner_ref: weakref.ref[Runner[Any]] | None = None

    def __init__(self, *, trained_agents: str | None = None) -> None:
        if trained_agents is not None:
            warnings.warn(
                "trained_agents is deprecated: select agents in the adapter (agent_match).",
                DeprecationWarning,
                stacklevel=2,
            )
        self.trained_agents = trained_agents

    def is_async(self) -> bool:
        """Return whether the runner calls the `*_async` methods: one of them is overridden."""
        return any(
            getattr(type(self), name) is not getattr(LitAgent, name) for name in _ASYNC_METHODS
        )

    def requires_resources(self) -> bool:
        """Return whether the agent cannot run without published resources.

        A rollout without resources then fails with a clear message instead of running with an
        empty mapping.
        """
        return False

    def set_trainer(self, trainer: Trainer) -> None:
        """Remember the trainer, weakly."""
        self._trainer_ref = weakref.ref(trainer)

    def get_trainer(self) -> Trainer:
        """Return the trainer.

        Raises:
            ConfigurationError: None has been set, or it no longer exists.
        """
        return _alive(self._trainer_ref, "trainer")

    @property
    def trainer(self) -> Trainer:
        """The trainer; see `get_trainer`."""
        return self.get_trainer()

    def set_runner(self, runner: Runner[T]) -> None:
        """Remember the runner, weakly."""
        self._runner_ref = weakref.ref(runner)

    def get_runner(self) -> Runner[T]:
        """Return the runner.

        Raises:
            ConfigurationError: None has been set, or it no longer exists.
        """
        return _alive(self._runner_ref, "runner")

    @property
    def runner(self) -> Runner[T]:
        """The runner; see `get_runner`."""
        return self.get_runner()

    def get_tracer(self) -> Tracer:
        """Return the tracer of the runner, or of the trainer while there is no runner.

        Raises:
            ConfigurationError: There is neither, or the runner has no tracer.
        """
        runner = self._runner_ref() if self._runner_ref is not None else None
        owner: Any = runner if hasattr(runner, "tracer") else self.get_trainer()
        return owner.tracer

    @property
    def tracer(self) -> Tracer:
        """The tracer; see `get_tracer`."""
        return self.get_tracer()

    def on_rollout_start(self, task: T, runner: Runner[T], tracer: Tracer) -> None:
        """Do nothing. Deprecated and never called: use `Hook.on_rollout_start`."""

    def on_rollout_end(self, task: T, rollout: Rollout, runner: Runner[T], tracer: Tracer) -> None:
        """Do nothing. Deprecated and never called: use `Hook.on_rollout_end`."""

    def rollout(
        self, task: T, resources: NamedResources, rollout: Rollout
    ) -> RolloutRawResult | dict[str, float]:
        """Execute one task, blocking; runs in a thread of its own.

        Args:
            task: The input of the rollout.
            resources: What the algorithm published, by name.
            rollout: The rollout with its attempt (an `AttemptedRollout`).
        """
        raise NotImplementedError(f"{type(self).__name__} must override rollout().")

    async def rollout_async(
        self, task: T, resources: NamedResources, rollout: Rollout
    ) -> RolloutRawResult | dict[str, float]:
        """Execute one task without blocking the event loop; arguments as for `rollout`."""
        raise NotImplementedError(f"{type(self).__name__} must override rollout_async().")

    def training_rollout(
        self, task: T, resources: NamedResources, rollout: Rollout
    ) -> RolloutRawResult | dict[str, float]:
        """Execute one task of mode `train`; the same as `rollout` unless overridden."""
        return self.rollout(task, resources, rollout)

    def validation_rollout(
        self, task: T, resources: NamedResources, rollout: Rollout
    ) -> RolloutRawResult | dict[str, float]:
        """Execute one task of any other mode; the same as `rollout` unless overridden."""
        return self.rollout(task, resources, rollout)

    async def training_rollout_async(
        self, task: T, resources: NamedResources, rollout: Rollout
    ) -> RolloutRawResult | dict[str, float]:
        """Execute one task of mode `train`; the same as `rollout_async` unless overridden."""
        return await self.rollout_async(task, resources, rollout)

    async def validation_rollout_async(
        self, task: T, resources: NamedResources, rollout: Rollout
    ) -> RolloutRawResult | dict[str, float]:
        """Execute one task of any other mode; the same as `rollout_async` unless overridden."""
        return await self.rollout_async(task, resources, rollout)

    def __getstate__(self) -> dict[str, Any]:
        # Weak references do not pickle; the process that unpickles sets its own components.
        return {key: value for key, value in vars(self).items() if not key.endswith("_ref")}
