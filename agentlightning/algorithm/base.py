"""The base of every algorithm: what the trainer hands it, and what it is asked to do."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, ClassVar

from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.adapter.base import TraceAdapter
    from agentlightning.algorithm.policy.result import FitResult
    from agentlightning.llm_proxy import LLMProxy
    from agentlightning.store.base import LightningStore
    from agentlightning.trainer.trainer import Trainer
    from agentlightning.types import Dataset, NamedResources

__all__ = ["Algorithm"]


def _alive(reference: weakref.ref[Any] | None, what: str) -> Any:
    if reference is None:
        raise ConfigurationError(
            f"No {what} has been set. Run the algorithm through Trainer.fit, or call "
            f"set_{what}() first."
        )
    target = reference()
    if target is None:
        raise ConfigurationError(
            f"The {what} of this algorithm no longer exists; keep a reference to it while the "
            "algorithm runs."
        )
    return target


class Algorithm:
    """Learns from rollouts and publishes better resources.

    Subclass it and override `run`, which may be a coroutine function or a plain one. The trainer
    sets store, adapter, proxy and initial resources before it calls `run`.
    """

    preferred_strategy: ClassVar[str | None] = None
    """Registered name of the execution strategy to use where the user names none."""

    has_agent: bool = True
    """Whether the fit has an agent; the trainer says so before it calls `run`."""

    _trainer_ref: weakref.ref[Trainer] | None = None
    _llm_proxy_ref: weakref.ref[LLMProxy] | None = None
    _adapter_ref: weakref.ref[TraceAdapter[Any]] | None = None
    _store: LightningStore | None = None
    _initial_resources: NamedResources | None = None

    @property
    def needs_agent(self) -> bool:
        """Return whether `Trainer.fit` must be given an agent: all that need rollouts do."""
        return True

    def is_async(self) -> bool:
        """Return whether `run` is a coroutine function."""
        return inspect.iscoroutinefunction(self.run)

    def prepare(self, *, resume: bool | None) -> str | None:
        """Get ready for a fit, before any store or runner exists.

        Args:
            resume: What `Trainer.fit` was asked: True continues a run, False starts a new one,
                None continues one if there is one.

        Returns:
            URL of the store to use where the user named none; None for the trainer's default.
        """
        if resume:
            raise ConfigurationError(
                f"{type(self).__name__} keeps no state that could be resumed; call fit() without "
                "resume=True."
            )
        return None

    async def recover(self, store: LightningStore) -> None:
        """Put in order what an earlier, killed part of the run left in the store.

        `Trainer.fit` awaits it after `prepare` and before any runner starts.
        """

    def get_result(self) -> FitResult | None:
        """Return what `run` achieved, or None when this algorithm reports nothing."""
        return None

    def set_trainer(self, trainer: Trainer) -> None:
        """Remember the trainer, weakly."""
        self._trainer_ref = weakref.ref(trainer)

    def get_trainer(self) -> Trainer:
        """Return the trainer.

        Raises:
            ConfigurationError: None has been set, or it no longer exists.
        """
        return _alive(self._trainer_ref, "trainer")

    def set_llm_proxy(self, llm_proxy: LLMProxy | None) -> None:
        """Remember the model proxy, weakly; None forgets it."""
        self._llm_proxy_ref = weakref.ref(llm_proxy) if llm_proxy is not None else None

    def get_llm_proxy(self) -> LLMProxy | None:
        """Return the model proxy, or None when none was set.

        Raises:
            ConfigurationError: It no longer exists.
        """
        if self._llm_proxy_ref is None:
            return None
        return _alive(self._llm_proxy_ref, "llm_proxy")

    def set_adapter(self, adapter: TraceAdapter[Any]) -> None:
        """Remember the adapter, weakly."""
        self._adapter_ref = weakref.ref(adapter)

    def get_adapter(self) -> TraceAdapter[Any]:
        """Return the adapter.

        Raises:
            ConfigurationError: None has been set, or it no longer exists.
        """
        return _alive(self._adapter_ref, "adapter")

    def set_store(self, store: LightningStore) -> None:
        """Remember the store."""
        self._store = store

    def get_store(self) -> LightningStore:
        """Return the store.

        Raises:
            ConfigurationError: None has been set.
        """
        if self._store is None:
            raise ConfigurationError(
                "No store has been set. Run the algorithm through Trainer.fit, or call "
                "set_store() first."
            )
        return self._store

    def set_initial_resources(self, resources: NamedResources) -> None:
        """Remember the resources that the user starts with."""
        self._initial_resources = resources

    def get_initial_resources(self) -> NamedResources | None:
        """Return the resources that the user starts with, if any."""
        return self._initial_resources

    def run(
        self,
        train_dataset: Dataset[Any] | None = None,
        val_dataset: Dataset[Any] | None = None,
    ) -> Awaitable[None] | None:
        """Learn; returns (or finishes awaiting) when the work is done.

        Args:
            train_dataset: Tasks to learn from.
            val_dataset: Tasks to measure with.
        """
        raise NotImplementedError(f"{type(self).__name__} must override run().")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # Weak references do not pickle; the process that unpickles sets its own components.
        return {key: value for key, value in vars(self).items() if not key.endswith("_ref")}
