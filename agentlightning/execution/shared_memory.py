"""Algorithm and runners as threads of one process, meeting at one store object."""

from __future__ import annotations

import logging
from functools import partial
from typing import Literal

from agentlightning._internal.clock import monotonic
from agentlightning.env_var import LightningEnvVar, resolve_bool_env_var
from agentlightning.errors import ConfigurationError
from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy, RunnerBundle
from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.interrupt import InterruptGuard
from agentlightning.execution.side import Side, StopPolicy
from agentlightning.store.base import LightningStore

__all__ = ["SharedMemoryExecutionStrategy"]

logger = logging.getLogger(__name__)


class SharedMemoryExecutionStrategy(ExecutionStrategy):
    """Runs everything in threads, each side with an event loop of its own.

    The quickest to start and the easiest to debug; agents that hold the GIL slow down everybody.
    """

    alias = "shm"

    def __init__(
        self,
        n_runners: int = 1,
        main_thread: Literal["runner", "algorithm"] | None = None,
        join_timeout: float = 15.0,
        graceful_delay: float = 5.0,
        poll_interval: float = 0.05,
        managed_store: bool | None = None,
    ) -> None:
        """Set the layout.

        Args:
            n_runners: How many runners.
            main_thread: Which side runs in the calling thread, where a debugger works best. None
                takes the runner if there is one, and the algorithm if there are several.
            join_timeout: How long to wait for threads that should have ended, in seconds.
            graceful_delay: How long a side may go on after the stop signal before it is
                cancelled, in seconds; then it has the same time to clean up.
            poll_interval: How often the stop signal is looked at, in seconds.
            managed_store: Put a lock around a store that threads may not share. None reads
                `AGL_MANAGED_STORE`, else True.

        Raises:
            ConfigurationError: `n_runners` is less than 1, or `main_thread` is `runner` with
                several runners.
        """
        if n_runners < 1:
            raise ConfigurationError(f"n_runners is {n_runners}; it must be 1 or more.")
        if main_thread == "runner" and n_runners > 1:
            raise ConfigurationError(
                f"{n_runners} runners cannot all run in the main thread; use "
                "main_thread='algorithm'."
            )
        self.n_runners = n_runners
        self.main_thread: Literal["runner", "algorithm"] = main_thread or (
            "runner" if n_runners == 1 else "algorithm"
        )
        self.join_timeout = join_timeout
        self.graceful_delay = graceful_delay
        self.poll_interval = poll_interval
        self.managed_store = resolve_bool_env_var(
            LightningEnvVar.AGL_MANAGED_STORE, override=managed_store, fallback=True
        )

    def execute(
        self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore
    ) -> None:
        event = ThreadingEvent()
        algorithm_side, runner_sides = self._sides(algorithm, runner, self._shared(store), event)
        sides = [algorithm_side, *runner_sides]
        main = algorithm_side if self.main_thread == "algorithm" else runner_sides[0]
        others = [side for side in sides if side is not main]

        def stop() -> None:
            event.set()
            algorithm_side.cancel()

        guard = InterruptGuard(
            on_first=stop, on_second=event.set, patience_seconds=2 * self.graceful_delay
        )
        with guard:
            for side in others:
                side.start()
            self._run_main(main, guard, event)
            self._join(algorithm_side, others, event)
        guard.raise_if_interrupted()
        for side in sides:
            if side.error is not None:
                raise side.error

    def _sides(
        self,
        algorithm: AlgorithmBundle,
        runner: RunnerBundle,
        store: LightningStore,
        event: ThreadingEvent,
    ) -> tuple[Side, list[Side]]:
        policy = StopPolicy(
            event=event, grace_seconds=self.graceful_delay, check_seconds=self.poll_interval
        )

        def ended(side: Side) -> None:
            if side is algorithm_side or side.error is not None:
                event.set()

        algorithm_side = Side("algorithm", lambda: algorithm(store, event), policy, ended)
        runner_sides = [
            Side(f"runner-{number}", partial(runner, store, number, event), policy, ended)
            for number in range(self.n_runners)
        ]
        return algorithm_side, runner_sides

    def _run_main(self, main: Side, guard: InterruptGuard, event: ThreadingEvent) -> None:
        try:
            with guard.impatient():
                main.run()
        except KeyboardInterrupt:
            event.set()
            if guard.immediate or not guard.interrupted:
                raise

    def _shared(self, store: LightningStore) -> LightningStore:
        if not self.managed_store or store.capabilities.get("thread_safe", False):
            return store
        from agentlightning.store.threading import LightningStoreThreaded

        return LightningStoreThreaded(store)

    def _join(self, algorithm: Side, others: list[Side], event: ThreadingEvent) -> None:
        # A runner that ends first waits for the algorithm, which may go on without it.
        while algorithm.is_alive() and not event.is_set():
            algorithm.join(self.poll_interval)
        deadline = monotonic() + self.join_timeout
        for side in others:
            if not side.join(max(0.0, deadline - monotonic())):
                logger.warning("thread is left behind", extra={"side": side.name})
