"""The runner of `LitAgent`s: many rollouts at once in one event loop, each attributed to itself."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning._internal.clock import now
from agentlightning.errors import ConfigurationError, HarnessError, StoreError
from agentlightning.runner.attempt import AttemptRun, Workplace
from agentlightning.runner.base import Runner, worker_name
from agentlightning.runner.claim import ClaimLoop, ClaimPolicy
from agentlightning.runner.heartbeat import Heartbeat, HeartbeatMode
from agentlightning.runner.lease import ClaimWatch, release_rollouts
from agentlightning.runner.seal import Sealer
from agentlightning.runner.stop import until_set
from agentlightning.types import AttemptedRollout, Hook, Rollout

if TYPE_CHECKING:
    from agentlightning.litagent.base import LitAgent
    from agentlightning.runner.reward import RewardFn
    from agentlightning.store.base import LightningStore
    from agentlightning.tracer.base import Tracer
    from agentlightning.types import ExecutionEvent, NamedResources, RolloutMode

__all__ = ["LitAgentRunner"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LitAgentRunner(Runner[T]):
    """Claims rollouts and executes them with a `LitAgent`.

    Async agents run as tasks of the runner's event loop, sync agents in a thread each; both see
    only their own rollout through context variables. Whatever an agent, hook or reward function
    raises is recorded on the attempt.
    """

    _agent: LitAgent[T] | None = None
    _store: LightningStore | None = None
    _hooks: Sequence[Hook] = ()

    def __init__(  # noqa: PLR0913 - Compat 0.3.0: the positional part is theirs.
        self,
        tracer: Tracer,
        max_rollouts: int | None = None,
        poll_interval: float = 5.0,
        heartbeat_interval: float = 10.0,
        interval_jitter: float = 0.5,
        heartbeat_launch_mode: HeartbeatMode = "thread",
        heartbeat_include_gpu: bool = False,
        *,
        concurrency: int = 1,
        reward_fn: RewardFn | None = None,
        lease_seconds: float | None = 60.0,
    ) -> None:
        """Set how the runner works; nothing starts here.

        Args:
            tracer: Records the agents; may be shared by several runners.
            max_rollouts: `iter` ends after this many; None for no limit.
            poll_interval: Longest wait of one claim, in seconds; work is handed over at once.
            heartbeat_interval: Seconds between two heartbeats of the worker; 0 for none.
            interval_jitter: Random spread of the intervals, in seconds.
            heartbeat_launch_mode: `thread`, where the store allows it, or `asyncio`.
            heartbeat_include_gpu: Report GPUs with the heartbeat.
            concurrency: Rollouts under way at once.
            reward_fn: Grades what the agent returns: `(task, output, *, spans, rollout)`.
            lease_seconds: After so long a silence of this worker the store gives its rollouts to
                others; the heartbeat renews it, so there is none without a heartbeat in a thread
                of its own. Never shorter than three heartbeats; None for no lease.

        Raises:
            ConfigurationError: `concurrency` is less than 1.
        """
        if concurrency < 1:
            raise ConfigurationError(f"concurrency is {concurrency}; it must be 1 or more.")
        self._tracer = tracer
        self._max_rollouts = max_rollouts
        self._poll_interval = poll_interval
        self._interval_jitter = interval_jitter
        self._concurrency = concurrency
        self._reward_fn = reward_fn
        self._lease_seconds = lease_seconds
        self._heartbeat = Heartbeat(
            interval_seconds=heartbeat_interval,
            jitter_seconds=interval_jitter,
            mode=heartbeat_launch_mode,
            include_gpu=heartbeat_include_gpu,
        )

    @property
    def tracer(self) -> Tracer:
        """The tracer that records the agents."""
        return self._tracer

    def init(
        self, agent: LitAgent[T], *, hooks: Sequence[Hook] | None = None, **kwargs: Any
    ) -> None:
        """Bind agent and hooks, and prepare the tracer."""
        self._agent = agent
        self._hooks = list(hooks or [])
        agent.set_runner(self)
        self._tracer.init()

    def init_worker(self, worker_id: int, store: LightningStore, **kwargs: Any) -> None:
        """Bind worker number and store, and point the tracer at the store."""
        self.worker_id = worker_id
        self._store = store
        self._tracer.init_worker(worker_id, store)

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Release the store."""
        self._tracer.teardown_worker(worker_id)
        self.worker_id = None
        self._store = None

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Release the agent."""
        self._tracer.teardown()
        self._agent = None
        self._hooks = ()

    def get_agent(self) -> LitAgent[T]:
        """Return the agent.

        Raises:
            ConfigurationError: `init` has not been called.
        """
        if self._agent is None:
            raise ConfigurationError("The runner has no agent; call init(agent) first.")
        return self._agent

    def get_store(self) -> LightningStore:
        """Return the store.

        Raises:
            ConfigurationError: `init_worker` has not been called.
        """
        if self._store is None:
            raise ConfigurationError("The runner has no store; call init_worker() first.")
        return self._store

    def get_worker_id(self) -> str:
        """Return the worker's id in the store, `Worker-<n>`."""
        return worker_name(self.worker_id)

    async def iter(self, *, event: ExecutionEvent | None = None) -> None:
        """Claim and execute rollouts until `event` is set or `max_rollouts` are done.

        When the event is set, nothing more is claimed and what is under way is finished. When
        this call is cancelled instead, attempts under way are interrupted and their rollouts go
        back into the queue.

        Raises:
            ConfigurationError: `init` or `init_worker` has not been called.
            StoreError: The store refused, or could not be reached for five minutes.
        """
        store, worker_id, since = self.get_store(), self.get_worker_id(), now()
        policy = ClaimPolicy(
            worker_id=worker_id,
            concurrency=self._concurrency,
            max_rollouts=self._max_rollouts,
            wait_seconds=self._poll_interval,
            jitter_seconds=self._interval_jitter,
            lease_seconds=self._heartbeat.lease_seconds(store, self._lease_seconds),
        )
        async with self._workplace() as workplace:
            loop = ClaimLoop(store, policy, functools.partial(AttemptRun, workplace))
            watch = ClaimWatch(store, loop.active, poll_seconds=self._poll_interval)
            try:
                async with (
                    self._heartbeat.beating(store, worker_id, loop.active),
                    _background(watch.run()),
                    _stop_signal(event) as stop,
                ):
                    await loop.run(stop)
            finally:
                if loop.claim_in_doubt:
                    await self._release(since)

    async def step(
        self,
        input: T,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: ExecutionEvent | None = None,
    ) -> Rollout:
        """Execute one task past the queue, and raise what its agent raised.

        Raises:
            RolloutError: The attempt failed, and not by an exception of the agent.
        """
        store = self.get_store()
        resources_id = None
        if resources is not None:
            resources_id = (await store.add_resources(resources)).resources_id
        rollout = await store.start_rollout(
            input, mode, resources_id, worker_id=self.get_worker_id()
        )
        async with self._workplace() as workplace:
            run = AttemptRun(workplace, rollout, give_back=False)
            watch = ClaimWatch(store, {rollout.rollout_id: run}, poll_seconds=self._poll_interval)
            async with (
                _background(watch.run()),
                _stop_signal(event) as stop,
                _background(_stop_when(stop, run)),
            ):
                await run.run()
        if run.error is not None:
            raise run.error.__cause__ or run.error
        return await self._settled(rollout)

    async def _release(self, since: float) -> None:
        """Give back work that a broken-off claim may have got us."""
        try:
            await release_rollouts(self.get_store(), self.get_worker_id(), since=since)
        except (StoreError, OSError) as error:
            logger.warning("a broken-off claim could not be checked", exc_info=error)

    async def _settled(self, rollout: AttemptedRollout) -> Rollout:
        settled = await self.get_store().get_rollout_by_id(rollout.rollout_id)
        if settled is None:
            raise HarnessError(f"The rollout {rollout.rollout_id} was removed while it ran.")
        return settled

    @contextlib.asynccontextmanager
    async def _workplace(self) -> AsyncGenerator[Workplace]:
        async with Sealer() as sealer:
            yield Workplace(
                agent=self.get_agent(),
                runner=self,
                tracer=self._tracer,
                store=self.get_store(),
                sealer=sealer,
                hooks=self._hooks,
                reward_fn=self._reward_fn,
            )


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run a coroutine beside the block and cancel it at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is not None:
            logger.error("background work of the runner failed", exc_info=task.exception())


@contextlib.asynccontextmanager
async def _stop_signal(event: ExecutionEvent | None) -> AsyncGenerator[asyncio.Event]:
    """Yield an event of this loop that follows one of any thread or process."""
    stop = asyncio.Event()

    async def follow(source: ExecutionEvent) -> None:
        await until_set(source)
        stop.set()

    if event is None:
        yield stop
        return
    async with _background(follow(event)):
        yield stop


async def _stop_when(stop: asyncio.Event, run: AttemptRun) -> None:
    await stop.wait()
    run.stop("interrupted")
