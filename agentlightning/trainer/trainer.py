"""The trainer: from a user's specifications to running components, and one entry point, `fit`.

It wires and nothing more: learning is the algorithm's, processes are the strategy's.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import monotonic
from agentlightning.adapter.base import TraceAdapter
from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.errors import ConfigurationError
from agentlightning.execution.base import ExecutionStrategy
from agentlightning.litagent.base import LitAgent
from agentlightning.runner.base import Runner
from agentlightning.store.base import LightningStore
from agentlightning.tracer.base import Tracer
from agentlightning.trainer import registry
from agentlightning.trainer.bundle import AlgorithmSide, RunnerSide
from agentlightning.trainer.init_utils import build_component
from agentlightning.types import Dataset, Hook, NamedResources, ParallelWorkerBase

if TYPE_CHECKING:
    from agentlightning.llm_proxy import LLMProxy

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

ComponentSpec = Any
"""An instance, a class, a factory, a short name or dotted path, or a dict with `type`."""


class Trainer(ParallelWorkerBase):
    """Trains an agent: `Trainer(algorithm=...).fit(agent, train_dataset)`.

    Every component may be given as an instance, a class, a factory without arguments, a short
    name or dotted path, or a dict of `type` and constructor arguments.

    Args:
        n_runners: Runners, each executing `concurrency` rollouts at a time. Default 1.
        concurrency: Rollouts that one runner executes at a time. Default 1.
        max_rollouts: Rollouts after which each runner stops; None for no limit.
        initial_resources: Resources that the algorithm starts with.
        tracer: Records what agents do. Default `OtelTracer`.
        adapter: Turns spans into training data. Default `TracerTraceToTriplet`.
        store: A store, or its URL (`memory://`, `sqlite:///runs/a.db`, `http://host:4747`).
            Default: what the algorithm prefers, else a store in memory.
        runner: Executes agents. Default `LitAgentRunner`.
        strategy: Where algorithm and runners run: `shm` (threads) or `cs` (processes around a
            store server). Default: what the algorithm prefers, else `cs`.
        port: Port of the store server of `cs`.
        algorithm: What learns. None leaves the store to others and runs until stopped.
        llm_proxy: A model proxy for the algorithm to use.
        reward_fn: `reward_fn(task, output, *, spans, rollout)`, sync or async, which grades what
            the agent returned; without it the agent returns its own reward.
        hooks: One `Hook` or several.
        daemon: Compat 0.3.0: kept as an attribute.
        dev: Deprecated; use `Trainer.dev`.
        n_workers: Deprecated name of `n_runners`.
        max_tasks: Deprecated name of `max_rollouts`.
        execution_strategy: Another name of `strategy`.
        triplet_exporter: Deprecated name of `adapter`.
    """

    def __init__(  # noqa: PLR0913 - Compat 0.3.0: the signature is theirs.
        self,
        *,
        dev: bool = False,
        n_runners: int | None = None,
        max_rollouts: int | None = None,
        initial_resources: NamedResources | None = None,
        tracer: ComponentSpec = None,
        adapter: ComponentSpec = None,
        store: ComponentSpec = None,
        runner: ComponentSpec = None,
        strategy: ComponentSpec = None,
        port: int | None = None,
        algorithm: ComponentSpec = None,
        llm_proxy: ComponentSpec = None,
        n_workers: int | None = None,
        max_tasks: int | None = None,
        daemon: bool = True,
        triplet_exporter: ComponentSpec = None,
        hooks: Sequence[Hook] | Hook | None = None,
        concurrency: int = 1,
        reward_fn: Callable[..., Any] | None = None,
        execution_strategy: ComponentSpec = None,
    ) -> None:
        """Build the components; nothing runs and no file is made until `fit`."""
        if dev:
            warnings.warn("dev= has no effect; call Trainer.dev()", DeprecationWarning, 2)
        n_runners = _renamed("n_workers", n_workers, "n_runners", n_runners)
        self.max_rollouts = _renamed("max_tasks", max_tasks, "max_rollouts", max_rollouts)
        adapter = _renamed("triplet_exporter", triplet_exporter, "adapter", adapter)
        self.daemon = daemon
        self.port = port
        self.initial_resources = initial_resources
        self.concurrency = concurrency
        self.reward_fn = reward_fn
        self.algorithm = self._make_algorithm(algorithm)
        self.tracer = self._make_tracer(tracer)
        self.adapter = self._make_adapter(adapter)
        self.strategy = self._make_strategy(
            strategy if strategy is not None else execution_strategy,
            n_runners=n_runners or 1,
            port=port,
        )
        self.n_runners: int = getattr(self.strategy, "n_runners", n_runners or 1)
        self._store_is_default = store is None
        self.store = self._make_store(store, self.strategy)
        self.runner = self._make_runner(runner)
        self.llm_proxy = self._make_llm_proxy(llm_proxy, store=self.store)
        self.hooks = self._normalize_hooks(hooks)
        self.n_workers = self.n_runners
        self.max_tasks = self.max_rollouts
        self.triplet_exporter = self.adapter

    def fit(
        self,
        agent: LitAgent[Any] | Callable[..., Any] | None = None,
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
        resume: bool | None = None,
    ) -> FitResult:
        """Train `agent`; blocks until the algorithm is done.

        Args:
            agent: A `LitAgent`, or a function that `agentlightning.rollout` understands. It may be
                left out where the algorithm learns from answers that are given, as `SFT` does.
            train_dataset: Tasks to learn from: anything with `len()` and integer indexing.
            val_dataset: Held-out tasks to measure with.
            resume: True continues the run in the algorithm's run directory and fails if there
                is none; False starts a new one and fails if there is one; None does whichever
                is possible.

        Returns:
            What was achieved, and where it lies.

        Raises:
            KeyboardInterrupt: Ctrl-C; raised after everything was stopped and saved.
            ConfigurationError: The components cannot work together.
        """
        started = monotonic()
        if agent is None and self.algorithm is not None and not self.algorithm.needs_agent:
            # Nobody enqueues a rollout, so the runners of this one have nothing to do.
            lit_agent = LitAgent[Any]()
        else:
            lit_agent = _as_agent(agent)
        store = self._open_store_for_fit(resume=resume)
        lit_agent.set_trainer(self)
        if self.algorithm is not None:
            self.algorithm.set_trainer(self)
            self.algorithm.has_agent = agent is not None
            _run_to_end(self.algorithm.recover(store))
        self.strategy.execute(
            AlgorithmSide(
                algorithm=self.algorithm,
                adapter=self.adapter,
                llm_proxy=self.llm_proxy,
                initial_resources=self.initial_resources,
                train_dataset=train_dataset,
                val_dataset=val_dataset,
            ),
            RunnerSide(runner=self.runner, agent=lit_agent, hooks=self.hooks),
            store,
        )
        result = self.algorithm.get_result() if self.algorithm is not None else None
        return result or FitResult(seconds=monotonic() - started)

    def train(
        self,
        agent: LitAgent[Any] | Callable[..., Any] | None = None,
        dataset: Dataset[Any] | None = None,
        **options: Any,
    ) -> FitResult:
        """Do what `fit` does."""
        return self.fit(agent, dataset, **options)

    def dev(
        self,
        agent: LitAgent[Any] | Callable[..., Any],
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
    ) -> FitResult:
        """Try `agent` out with a fast algorithm (`Baseline` unless one was given).

        Raises:
            TypeError: The trainer's algorithm is not a `FastAlgorithm`.
        """
        from agentlightning.algorithm.fast import Baseline, FastAlgorithm

        if self.algorithm is None:
            self.algorithm = Baseline()
        if not isinstance(self.algorithm, FastAlgorithm):
            raise TypeError(
                f"dev() needs a FastAlgorithm such as Baseline, not a "
                f"{type(self.algorithm).__name__}; call fit() instead."
            )
        return self.fit(agent, train_dataset, val_dataset=val_dataset)

    def _open_store_for_fit(self, *, resume: bool | None) -> LightningStore:
        """Let the algorithm prepare, and open the store it asks for unless the user named one."""
        url = self.algorithm.prepare(resume=resume) if self.algorithm is not None else None
        if url is not None and self._store_is_default:
            from agentlightning.store.url import open_store

            self.store = open_store(url)
            if self.llm_proxy is not None:
                self.llm_proxy.set_store(self.store)
        return self.store

    def _make_algorithm(self, algorithm: ComponentSpec) -> Algorithm | None:
        return build_component(
            algorithm,
            expected_type=Algorithm,
            spec_name="algorithm",
            allow_none=True,
            registry=registry.AlgorithmRegistry,
        )

    def _make_tracer(self, tracer: ComponentSpec) -> Tracer:
        from agentlightning.tracer.otel import OtelTracer

        built = build_component(
            tracer,
            expected_type=Tracer,
            spec_name="tracer",
            default_factory=OtelTracer,
            registry=registry.TracerRegistry,
        )
        assert built is not None
        return built

    def _make_adapter(self, adapter: ComponentSpec) -> TraceAdapter[Any]:
        from agentlightning.adapter.triplet import TracerTraceToTriplet

        built = build_component(
            adapter,
            expected_type=TraceAdapter,
            spec_name="adapter",
            default_factory=TracerTraceToTriplet,
            dict_requires_type=False,
            dict_default_cls=TracerTraceToTriplet,
            registry=registry.AdapterRegistry,
        )
        assert built is not None
        return built

    def _make_strategy(
        self, strategy: ComponentSpec, *, n_runners: int, port: int | None
    ) -> ExecutionStrategy:
        if strategy is None:
            preferred = self.algorithm.preferred_strategy if self.algorithm is not None else None
            strategy = preferred or "cs"
        defaults: dict[str, Any] = {"n_runners": n_runners}
        if port is not None:
            defaults["server_port"] = port
        built = build_component(
            strategy,
            expected_type=ExecutionStrategy,
            spec_name="strategy",
            optional_defaults=defaults,
            registry=registry.ExecutionStrategyRegistry,
        )
        assert built is not None
        if port is not None and hasattr(built, "server_port"):
            built.server_port = port  # pyright: ignore[reportAttributeAccessIssue]  # duck-typed
        return built

    def _make_store(self, store: ComponentSpec, strategy: ExecutionStrategy) -> LightningStore:
        from agentlightning.store.memory import InMemoryLightningStore

        if isinstance(store, str) and "://" in store:
            from agentlightning.store.url import open_store

            return open_store(store)
        built = build_component(
            store,
            expected_type=LightningStore,
            spec_name="store",
            default_factory=lambda: InMemoryLightningStore(thread_safe=True),
            registry=registry.StoreRegistry,
        )
        assert built is not None
        return built

    def _make_runner(self, runner: ComponentSpec) -> Runner[Any]:
        from agentlightning.runner.agent import LitAgentRunner

        defaults: dict[str, Any] = {
            "tracer": lambda: self.tracer,
            "concurrency": self.concurrency,
        }
        if self.max_rollouts is not None:
            defaults["max_rollouts"] = self.max_rollouts
        if self.reward_fn is not None:
            defaults["reward_fn"] = lambda: self.reward_fn
        built = build_component(
            runner if runner is not None else LitAgentRunner,
            expected_type=Runner,
            spec_name="runner",
            optional_defaults=defaults,
            dict_requires_type=False,
            dict_default_cls=LitAgentRunner,
            registry=registry.RunnerRegistry,
        )
        assert built is not None
        return built

    def _make_llm_proxy(
        self, llm_proxy: ComponentSpec, *, store: LightningStore
    ) -> LLMProxy | None:
        if llm_proxy is None:
            return None
        from agentlightning.llm_proxy import LLMProxy

        return build_component(
            llm_proxy,
            expected_type=LLMProxy,
            spec_name="llm_proxy",
            optional_defaults={"store": lambda: store},
            dict_requires_type=False,
            dict_default_cls=LLMProxy,
        )

    def _normalize_hooks(self, hooks: Sequence[Hook] | Hook | None) -> tuple[Hook, ...]:
        if hooks is None:
            return ()
        return (hooks,) if isinstance(hooks, Hook) else tuple(hooks)


def _run_to_end(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a loop of its own; also where this thread has a running loop."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        executor.submit(asyncio.run, work).result()


def _as_agent(agent: LitAgent[Any] | Callable[..., Any] | None) -> LitAgent[Any]:
    if isinstance(agent, LitAgent):
        return agent
    if callable(agent):
        from agentlightning.litagent.decorator import rollout

        return rollout(agent)
    raise ConfigurationError(
        f"fit() needs an agent: a LitAgent or a function, not a {type(agent).__name__}."
    )


def _renamed(old_name: str, old: Any, new_name: str, new: Any) -> Any:
    """Return the value of an argument that has a deprecated name, warning where that is used."""
    if old is None:
        return new
    warnings.warn(f"{old_name}= is deprecated; use {new_name}=", DeprecationWarning, 3)
    if new is not None and new != old:
        warnings.warn(f"{old_name}= is ignored, {new_name}= was given too", UserWarning, 3)
    return old if new is None else new
