"""Algorithm and runners as processes that meet at a store server.

The three roles may also live on different machines: start the same program there with
`AGL_CURRENT_ROLE` set to `algorithm` or `runner`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Literal, cast

from agentlightning.env_var import (
    LightningEnvVar,
    resolve_bool_env_var,
    resolve_int_env_var,
    resolve_str_env_var,
)
from agentlightning.errors import ConfigurationError
from agentlightning.execution.algorithm_worker import receive_store, run_algorithm_worker
from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy, RunnerBundle
from agentlightning.execution.events import MultiprocessingEvent
from agentlightning.execution.fleet import Fleet
from agentlightning.execution.interrupt import InterruptGuard
from agentlightning.execution.processes import choose_context
from agentlightning.execution.restart import RestartPolicy
from agentlightning.execution.side import Side, StopPolicy
from agentlightning.execution.supervisor import FleetPlan
from agentlightning.store.base import LightningStore

__all__ = ["ClientServerExecutionStrategy", "Role"]

logger = logging.getLogger(__name__)

Role = Literal["algorithm", "runner", "both"]

DEFAULT_PORT = 4747
"""Where the roles look for each other when they are started apart."""

_CHECK_SECONDS = 0.05


class ClientServerExecutionStrategy(ExecutionStrategy):
    """Runs the algorithm beside a store server, and the runners in processes of their own.

    Runners that die are started again, and what they had claimed goes back into the queue; a
    runner that keeps dying ends the run. No process is left behind, also when this one is killed.
    """

    alias = "cs"

    def __init__(  # noqa: PLR0913 - Compat 0.3.0: the positional part is theirs.
        self,
        role: Role | None = None,
        server_host: str | None = None,
        server_port: int | None = None,
        n_runners: int = 1,
        graceful_timeout: float = 10.0,
        terminate_timeout: float = 10.0,
        main_process: Literal["algorithm", "runner"] = "algorithm",
        managed_store: bool | None = None,
        allowed_exit_codes: Sequence[int] = (0, -15),
        *,
        start_method: Literal["fork", "spawn", "forkserver"] | None = None,
        token: str | None = None,
        crash_budget: int = 5,
    ) -> None:
        """Set the layout. Arguments come before environment variables, these before defaults.

        Args:
            role: Which part this process plays; `AGL_CURRENT_ROLE`, else `both`.
            server_host: Where the store server listens; `AGL_SERVER_HOST`, else `localhost`.
            server_port: `AGL_SERVER_PORT`; else 4747 when the roles are started apart, and for
                `both` 0, a free port.
            n_runners: How many runners.
            graceful_timeout: How long runners may go on with their rollouts after the stop
                signal, in seconds; then they are interrupted and give them back.
            terminate_timeout: How long each further step (SIGINT, SIGTERM, SIGKILL) may take.
            main_process: Which side stays in this process; `runner` is for debugging agents.
            managed_store: Put a server in front of the store; `AGL_MANAGED_STORE`, else True.
                False hands the store object itself to the runners.
            allowed_exit_codes: Codes with which a runner may end after the stop signal.
            start_method: How processes start; None forks where that is safe, else spawns.
            token: Secret between server and runners; a host other than loopback needs one.
            crash_budget: How often in a row a runner may die and be started again; a minute of
                life ends the row.

        Raises:
            ConfigurationError: A value is unknown or they do not fit together.
        """
        self.role = _checked_role(role)
        self.n_runners = n_runners
        self.server_host = (
            resolve_str_env_var(LightningEnvVar.AGL_SERVER_HOST, server_host, "localhost")
            or "localhost"
        )
        port = resolve_int_env_var(LightningEnvVar.AGL_SERVER_PORT, override=server_port)
        self.server_port = port if port is not None else 0 if self.role == "both" else DEFAULT_PORT
        self.main_process: Literal["algorithm", "runner"] = main_process
        self.managed_store = bool(
            resolve_bool_env_var(LightningEnvVar.AGL_MANAGED_STORE, managed_store, True)
        )
        self.graceful_timeout = graceful_timeout
        self.terminate_timeout = terminate_timeout
        self.allowed_exit_codes = tuple(allowed_exit_codes)
        self.start_method = start_method
        self.crash_budget = crash_budget
        self._token = token
        if n_runners < 1:
            raise ConfigurationError(f"n_runners is {n_runners}; it must be 1 or more.")
        if main_process == "runner" and (self.role != "both" or n_runners > 1):
            raise ConfigurationError(
                "main_process='runner' needs role='both' and n_runners=1, for the one runner is "
                "in this process."
            )

    def execute(
        self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore
    ) -> None:
        if self.role == "algorithm":
            self._execute_algorithm(algorithm, store)
        elif self.role == "runner":
            self._execute_runners(runner, store)
        elif self.main_process == "runner":
            self._execute_debugging(algorithm, runner, store)
        else:
            self._execute_both(algorithm, runner, store)

    def _execute_both(
        self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore
    ) -> None:
        event = MultiprocessingEvent()
        fleet = self._start_fleet(runner, event)

        async def main(guard: InterruptGuard) -> None:
            loop = asyncio.get_running_loop()
            async with self._served(store) as (near, far):
                work = asyncio.create_task(_awaited(algorithm(near, event)))

                def end() -> None:
                    if fleet.failure is None:
                        logger.info("every runner has ended; the algorithm goes on alone")
                    elif not loop.is_closed():
                        loop.call_soon_threadsafe(work.cancel)

                fleet.launch(far, close_store=_is_remote(far), on_end=end)
                try:
                    with guard.impatient():
                        await work
                finally:
                    event.set()
                    await asyncio.to_thread(fleet.stop)

        self._run(main, event, fleet=fleet, cancel_at_once=True)

    def _execute_algorithm(self, algorithm: AlgorithmBundle, store: LightningStore) -> None:
        event = MultiprocessingEvent()

        async def main(guard: InterruptGuard) -> None:
            async with self._served(store) as (near, _):
                with guard.impatient():
                    await algorithm(near, event)

        self._run(main, event, cancel_at_once=True)

    def _execute_runners(self, runner: RunnerBundle, store: LightningStore) -> None:
        event = MultiprocessingEvent()
        if self.n_runners == 1:
            self._run(lambda _: self._run_one(runner, self._far(store), event), event)
            return
        fleet = self._start_fleet(runner, event)

        async def main(_: InterruptGuard) -> None:
            far = self._far(store)
            fleet.launch(far, close_store=_is_remote(far), on_end=event.set)
            try:
                await asyncio.to_thread(event.wait)
            finally:
                await asyncio.to_thread(fleet.stop)

        self._run(main, event, fleet=fleet, cancel_at_once=True)

    def _execute_debugging(
        self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore
    ) -> None:
        event = MultiprocessingEvent()
        released = MultiprocessingEvent()
        reader, writer = multiprocessing.Pipe(duplex=False)
        bundle = partial(run_algorithm_worker, self._served, algorithm, store, writer, released)
        fleet = self._start_fleet(bundle, event, crash_budget=0)
        algorithm_ended = asyncio.Event()

        async def main(_: InterruptGuard) -> None:
            loop = asyncio.get_running_loop()

            def end() -> None:
                event.set()
                loop.call_soon_threadsafe(algorithm_ended.set)

            # The algorithm's process brings its own store; this one is only a placeholder.
            fleet.launch(LightningStore(), close_store=False, on_end=end)
            try:
                far = await receive_store(reader, algorithm_ended)
                if far is not None:
                    await self._run_one(runner, far, event)
                    released.set()
                    await algorithm_ended.wait()
            finally:
                event.set()
                released.set()
                await asyncio.to_thread(fleet.stop)

        self._run(main, event, fleet=fleet)

    async def _run_one(
        self, runner: RunnerBundle, store: LightningStore, event: MultiprocessingEvent
    ) -> None:
        try:
            await runner(store, 0, event)
        finally:
            if _is_remote(store):
                await store.close()

    def _run(
        self,
        main: Callable[[InterruptGuard], Coroutine[Any, Any, None]],
        event: MultiprocessingEvent,
        *,
        fleet: Fleet | None = None,
        cancel_at_once: bool = False,
    ) -> None:
        """Run the part of this process under the watch of signals, and raise what went wrong.

        Args:
            main: Makes the part's coroutine.
            event: The stop signal, which the first interrupt sets.
            fleet: Worker processes to be ended afterwards.
            cancel_at_once: The first interrupt cancels the part. Otherwise it has
                `graceful_timeout` to end by itself.
        """

        def stop() -> None:
            event.set()
            if cancel_at_once:
                side.cancel()

        guard = InterruptGuard(
            on_first=stop,
            on_second=fleet.kill if fleet else event.set,
            patience_seconds=self.graceful_timeout,
        )
        policy = StopPolicy(
            event=MultiprocessingEvent() if cancel_at_once else event,
            grace_seconds=self.graceful_timeout,
            check_seconds=_CHECK_SECONDS,
        )
        side = Side("main", lambda: main(guard), policy, lambda _: event.set())
        with guard:
            try:
                side.run()
            except KeyboardInterrupt:
                if guard.immediate or not guard.interrupted:
                    raise
            finally:
                event.set()
                if fleet is not None:
                    fleet.stop()
        guard.raise_if_interrupted()
        if fleet is not None and fleet.failure is not None:
            raise fleet.failure from side.error
        if side.error is not None:
            raise side.error

    def _start_fleet(
        self,
        bundle: RunnerBundle,
        event: MultiprocessingEvent,
        crash_budget: int | None = None,
    ) -> Fleet:
        context = choose_context(self.start_method)
        plan = FleetPlan(
            bundle=bundle,
            n_workers=self.n_runners,
            event=event,
            start_method=context.get_start_method(),
            parent_pid=os.getpid(),
            graceful_seconds=self.graceful_timeout,
            terminate_seconds=self.terminate_timeout,
            allowed_exit_codes=self.allowed_exit_codes,
            restart=RestartPolicy(
                crash_budget=self.crash_budget if crash_budget is None else crash_budget
            ),
        )
        fleet = Fleet(context, plan)
        fleet.start()
        return fleet

    def _far(self, store: LightningStore) -> LightningStore:
        """Return the store as seen from this process when another one serves it."""
        if not self.managed_store or _is_remote(store):
            return store
        from agentlightning.store.client_server import LightningStoreClient

        return LightningStoreClient(
            f"http://{self.server_host}:{self.server_port}", token=self._token
        )

    @contextlib.asynccontextmanager
    async def _served(
        self, store: LightningStore
    ) -> AsyncGenerator[tuple[LightningStore, LightningStore]]:
        """Yield the store for this process and the store for the others.

        A store that other processes can use as it is gets no server, nor does an unmanaged one.
        """
        if not self.managed_store or _is_remote(store):
            yield store, store
            return
        from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer

        server = LightningStoreServer(store, self.server_host, self.server_port, token=self._token)
        await server.start()
        try:
            yield server, LightningStoreClient(server.endpoint, token=self._token)
        finally:
            await server.stop()


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _is_remote(store: LightningStore) -> bool:
    return bool(store.capabilities.get("zero_copy", False))


def _checked_role(role: Role | None) -> Role:
    resolved = resolve_str_env_var(LightningEnvVar.AGL_CURRENT_ROLE, role, "both")
    if resolved not in {"algorithm", "runner", "both"}:
        raise ConfigurationError(
            f"The role {resolved!r} is unknown; use 'algorithm', 'runner' or 'both'."
        )
    return cast("Role", resolved)
