"""Scripts that record themselves: a block of plain code as one rollout, without a runner.

`TrainingContext` opens the rollout and its attempt, traces the block, and settles the attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from agentlightning.errors import AgentError, ConfigurationError, RolloutError, StoreError
from agentlightning.runner.background import background_loop
from agentlightning.runner.lease import keep_lease
from agentlightning.runner.outcome import RolloutStoppedError
from agentlightning.runner.reward import read_reward, reward_span
from agentlightning.runner.script_store import acquire_store, release_store
from agentlightning.runner.seal import Sealer
from agentlightning.runner.settlement import Settlement
from agentlightning.types import LLM, AttemptedRollout, ProxyLLM, RolloutConfig

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.tracer.base import Tracer
    from agentlightning.types import NamedResources, RolloutMode

__all__ = ["TrainingContext"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_SILENCE_SECONDS = 300.0
"""When a script that says nothing any more counts as dead; it is renewed three times as often."""

_numbers = itertools.count(1_000_000)
"""Of workers, as tracers count them; far from those of runners that share a tracer."""


class TrainingContext:
    """Records a block of code as one rollout: `with TrainingContext(task_id="t") as ctx: ...`.

    Inside, everything works as in an agent: emitters and `span` write to this rollout, and model
    calls through `ctx.llm` are captured under it. When the block ends the attempt is settled:
    `succeeded`, or `failed` with the exception, which is raised again. `async with` does the same
    without blocking the event loop. Blocks may be nested and may run in many threads and tasks at
    once; each has its own rollout. An object serves one block.

    Args:
        task_id: Names the task; rollouts of one task are a group, kept as `group_id` and
            `task_id` in the rollout's metadata.
        store: The store, or its URL. None takes `AGL_STORE_URL`, or else the embedded default,
            `script/store.db` in the directory of runs (`AGL_RUNS_DIR`, `./runs`).
        mode: What the rollout is for.
        input: The task itself, any JSON value; by default `{"task_id": task_id}`.
        llm: The model to use. None takes the first one among the store's latest resources.
        metadata: More metadata of the rollout.
        tracer: Records the block; by default an `OtelTracer`.
    """

    def __init__(
        self,
        task_id: str,
        store: LightningStore | str | None = None,
        mode: RolloutMode | None = None,
        input: Any = None,
        *,
        llm: LLM | None = None,
        metadata: Mapping[str, Any] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.task_id = task_id
        self.mode: RolloutMode | None = mode
        self.input = {"task_id": task_id} if input is None else input
        self.output: Any = None
        """What the block made, any JSON value; kept on the attempt when it is settled."""
        self._store_or_url = store
        self._metadata = {"task_id": task_id, "group_id": task_id, **(metadata or {})}
        self._given_llm = llm
        self._tracer = tracer
        self._reward: dict[str, float] | None = None
        self._store: LightningStore | None = None
        self._rollout: AttemptedRollout | None = None
        self._resources: NamedResources = {}
        self._knows_models = False
        self._exits: contextlib.AbstractContextManager[Any] | None = None
        self._async_exits: contextlib.AbstractAsyncContextManager[Any] | None = None

    @property
    def rollout(self) -> AttemptedRollout:
        """The rollout with its attempt, as they were when the block began.

        Raises:
            ConfigurationError: The block has not begun.
        """
        return _begun(self._rollout)

    @property
    def rollout_id(self) -> str:
        """Id of the rollout."""
        return self.rollout.rollout_id

    @property
    def attempt_id(self) -> str:
        """Id of the attempt."""
        return self.rollout.attempt.attempt_id

    @property
    def store(self) -> LightningStore:
        """The store that records the block; one that was opened by URL closes with it.

        Raises:
            ConfigurationError: The block has not begun.
        """
        return _begun(self._store)

    @property
    def resources(self) -> NamedResources:
        """The resources that the rollout is pinned to, as they were published."""
        self._knows_models = True
        return self._resources

    @property
    def llm(self) -> LLM:
        """The model, with the endpoint at which calls are recorded as this rollout's.

        Raises:
            ConfigurationError: No model was given, and the store's resources hold none.
        """
        models = [r for r in self.resources.values() if isinstance(r, LLM)]
        llm = self._given_llm or next(iter(models), None)
        if llm is None:
            raise ConfigurationError(
                "No model is known: pass llm= to TrainingContext, for instance "
                "LLMProxy(...).as_resource(), or publish one with store.add_resources()."
            )
        return llm.with_attempted_rollout(self.rollout) if isinstance(llm, ProxyLLM) else llm

    @property
    def reward(self) -> float | None:
        """The reward set here; one that was given with `emit_reward` is not seen.

        Set a number, or a dict of them whose primary dimension is `primary`, `reward` or the
        first one. It is stored when the block ends, as the rollout's final reward.

        Raises:
            RewardError: What is set is not a finite number or a dict of such.
        """
        return None if self._reward is None else next(iter(self._reward.values()))

    @reward.setter
    def reward(self, value: float | Mapping[str, float] | None) -> None:
        dimensions = None if value is None else read_reward(value)
        if value is not None and dimensions is None:
            raise TypeError(f"A reward is a number or a dict of numbers, not {value!r}.")
        self._reward = dimensions

    def __enter__(self) -> Self:
        self._begin()
        self._exits = self._session()
        return self._exits.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._exits.__exit__(kind, error, traceback) if self._exits else None

    async def __aenter__(self) -> Self:
        self._begin()
        self._async_exits = self._async_session()
        return await self._async_exits.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return (
            await self._async_exits.__aexit__(kind, error, traceback) if self._async_exits else None
        )

    def _begin(self) -> None:
        if self._exits is not None or self._async_exits is not None:
            raise ConfigurationError("A TrainingContext serves one block: make another one.")

    @contextlib.contextmanager
    def _session(self) -> Generator[Self]:
        with contextlib.ExitStack() as undo:
            loop = undo.enter_context(background_loop())
            store = acquire_store(self._store_or_url)
            undo.callback(lambda: loop.call(release_store(store)))
            loop.call(self._open(store))
            undo.callback(loop.begin(self._keep_alive(store)).cancel)
            tracer = undo.enter_context(self._tracing(store))
            error: BaseException | None = None
            try:
                with tracer._trace_context_sync(  # noqa: SLF001 - protected by 0.3.0's name only
                    name=self.task_id, rollout_id=self.rollout_id, attempt_id=self.attempt_id
                ):
                    yield self
            except BaseException as raised:
                error = raised
                raise
            finally:
                loop.call(self._settle(tracer, error))

    @contextlib.asynccontextmanager
    async def _async_session(self) -> AsyncGenerator[Self]:
        async with contextlib.AsyncExitStack() as undo:
            # Leases are kept in a thread: the block may keep this event loop busy for minutes.
            loop = undo.enter_context(background_loop())
            store = acquire_store(self._store_or_url)
            undo.push_async_callback(release_store, store)
            await self._open(store)
            undo.callback(loop.begin(self._keep_alive(store)).cancel)
            tracer = undo.enter_context(self._tracing(store))
            error: BaseException | None = None
            try:
                async with tracer.trace_context(
                    name=self.task_id, rollout_id=self.rollout_id, attempt_id=self.attempt_id
                ):
                    yield self
            except BaseException as raised:
                error = raised
                raise
            finally:
                await self._settle(tracer, error)

    async def _open(self, store: LightningStore) -> None:
        # Only a store that another thread may use can be told that a blocked script is alive.
        silence = _SILENCE_SECONDS if store.capabilities.get("thread_safe") else None
        rollout = await store.start_rollout(
            self.input,
            self.mode,
            config=RolloutConfig(unresponsive_seconds=silence),
            metadata=self._metadata,
        )
        if rollout.resources_id is not None:
            update = await store.get_resources_by_id(rollout.resources_id)
            self._resources = dict(update.resources) if update else {}
        self._store, self._rollout = store, rollout

    async def _keep_alive(self, store: LightningStore) -> None:
        async with keep_lease(store, self.rollout):
            await asyncio.get_running_loop().create_future()

    @contextlib.contextmanager
    def _tracing(self, store: LightningStore) -> Generator[Tracer]:
        from agentlightning.tracer.otel import OtelTracer

        tracer = self._tracer or OtelTracer()
        number = next(_numbers)
        tracer.init()
        tracer.init_worker(number, store)
        try:
            yield tracer
        finally:
            tracer.teardown_worker(number)

    async def _settle(self, tracer: Tracer, raised: BaseException | None) -> None:
        lost = await self._store_reward()
        # Gateways that the block cannot have called, and that may be gone, are not asked.
        resources: NamedResources = dict(self._resources) if self._knows_models else {}
        if isinstance(self._given_llm, ProxyLLM):
            resources = {"llm": self._given_llm}
        async with Sealer() as sealer:
            settlement = Settlement(
                rollout=self.rollout,
                resources=resources,
                store=self.store,
                tracer=tracer,
                sealer=sealer,
                own_spans=int(self._reward is not None and lost is None),
                output=self.output,
                hook_errors=[],
                give_back=False,
            )
            await settlement.settle(_rollout_error(raised or lost))
        if lost is not None and raised is None:
            raise lost

    async def _store_reward(self) -> StoreError | None:
        """Store the reward that was set here; return why that failed."""
        if self._reward is None:
            return None
        try:
            await self.store.add_many_spans([reward_span(self._reward, self.rollout.attempt)])
        except StoreError as error:
            logger.warning(
                "reward could not be stored", extra={"rollout_id": self.rollout_id}, exc_info=error
            )
            return error
        return None


def _begun(value: T | None) -> T:
    """Return what is known as soon as the block has begun."""
    if value is None:
        raise ConfigurationError("The store and the rollout are there when the with block begins.")
    return value


def _rollout_error(raised: BaseException | None) -> RolloutError | None:
    """Return what the attempt failed of; leaving the block from outside is an interruption."""
    if raised is None or isinstance(raised, RolloutError):
        return raised
    if not isinstance(raised, Exception):
        error: RolloutError = RolloutStoppedError("interrupted")
    else:
        error = AgentError(f"The script raised {raised!r}.")
    error.__cause__ = raised
    return error
