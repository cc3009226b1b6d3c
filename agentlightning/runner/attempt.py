"""One attempt from claim to settlement: hooks, trace, agent, reward, seal, status.

Nothing that goes wrong here leaves this module, except through `AttemptRun.error`: a bad rollout
is data for the algorithm, not a crash of the runner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import monotonic
from agentlightning.errors import (
    AgentError,
    AgentTimeoutError,
    HarnessError,
    RewardError,
    RolloutError,
)
from agentlightning.litagent.base import is_async_callable
from agentlightning.runner.hooks import HookCalls
from agentlightning.runner.invocation import Invocation, invoke_async, invoke_sync
from agentlightning.runner.lease import keep_lease
from agentlightning.runner.outcome import RolloutStoppedError, StopCause, outcome_of
from agentlightning.runner.reward import RewardFn, read_result, read_reward, reward_span
from agentlightning.runner.settlement import Settlement
from agentlightning.runner.signature import fitting_arguments
from agentlightning.types import AttemptedRollout, Hook, NamedResources, Span, SpanLike

if TYPE_CHECKING:
    from agentlightning.litagent.base import LitAgent
    from agentlightning.runner.base import Runner
    from agentlightning.runner.seal import Sealer
    from agentlightning.store.base import LightningStore
    from agentlightning.tracer.base import Tracer

__all__ = ["AttemptRun", "Workplace"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What all attempts of one worker share."""

    agent: LitAgent[Any]
    runner: Runner[Any]
    tracer: Tracer
    store: LightningStore
    sealer: Sealer
    hooks: Sequence[Hook] = ()
    reward_fn: RewardFn | None = None


def _margin(timeout_seconds: float) -> float:
    """Return how much before the store's own time limit the agent is stopped.

    The attempt can then be settled with its manifest before the store's watchdog ends it.
    """
    return min(1.0, 0.1 * timeout_seconds)


class AttemptRun:
    """Executes one attempt. Call `run` once; `stop` may come at any time, from the same loop."""

    def __init__(
        self, workplace: Workplace, rollout: AttemptedRollout, *, give_back: bool = True
    ) -> None:
        """Bind the attempt; its time starts to count.

        Args:
            workplace: The worker's surroundings.
            rollout: The rollout with the attempt to execute.
            give_back: Put the rollout back into the queue when the attempt is interrupted.
        """
        self.rollout = rollout
        self.attempt_id = rollout.attempt.attempt_id
        self.lease_seconds = rollout.attempt.lease_seconds
        self.is_settling = False
        """The agent has ended; `stop` no longer changes anything."""
        self.error: RolloutError | None = None
        """Why the attempt failed; its `__cause__` is what the agent raised, if it did."""
        self._at = workplace
        self._give_back = give_back
        self._resources: NamedResources = {}
        self._spans: list[SpanLike] = []
        self._own_spans = 0
        self._output: Any = None
        self._stopped: asyncio.Future[StopCause] = asyncio.get_running_loop().create_future()
        seconds = rollout.config.timeout_seconds
        self._deadline = None if seconds is None else monotonic() + seconds - _margin(seconds)
        self._hooks = HookCalls(
            workplace.hooks, agent=workplace.agent, runner=workplace.runner, rollout=rollout
        )

    def stop(self, cause: StopCause) -> None:
        """Stop the agent; the attempt settles itself as failed. The first cause counts."""
        if not self._stopped.done():
            self._stopped.set_result(cause)

    async def run(self) -> None:
        """Execute the attempt and settle it."""
        async with keep_lease(self._at.store, self.rollout):
            try:
                await self._execute()
            except RolloutError as error:
                self.error = error
            except Exception as error:  # noqa: BLE001 - boundary: recorded on the attempt.
                self.error = HarnessError(f"The rollout could not be executed: {error!r}")
                self.error.__cause__ = error
            self.is_settling = True
            self._log_failure()
            await self._hooks.call("on_rollout_end", spans=self._spans)
            await self._settlement().settle(self.error)

    async def _execute(self) -> None:
        await self._hooks.call("on_rollout_start")
        self._resources = await self._fetch_resources()
        output = await self._traced()
        if self._at.reward_fn is None:
            spans = read_result(output, self.rollout.attempt)
        else:
            self._output = output
            spans = [await self._grade(self._at.reward_fn, output)]
        if spans:
            self._spans.extend(await self._at.store.add_many_spans(spans))
            self._own_spans += len(spans)

    async def _fetch_resources(self) -> NamedResources:
        resources_id = self.rollout.resources_id
        if resources_id is not None:
            update = await self._at.store.get_resources_by_id(resources_id)
        else:
            update = await self._at.store.get_latest_resources()
        if update is not None:
            return update.resources
        if resources_id is not None:
            raise HarnessError(
                f"The rollout is pinned to resources {resources_id!r}, which the store does not "
                "have. Publish them before enqueueing."
            )
        if self._at.agent.requires_resources():
            raise HarnessError(
                "No resources have been published, but the agent needs some. Publish them with "
                "add_resources(), or pass initial_resources to the Trainer."
            )
        return {}

    async def _traced(self) -> Any:
        tracer, rollout_id = self._at.tracer, self.rollout.rollout_id
        try:
            async with tracer.trace_context(
                name=rollout_id, rollout_id=rollout_id, attempt_id=self.attempt_id
            ):
                await self._hooks.call("on_trace_start", tracer=tracer)
                try:
                    return await self._call_agent()
                finally:
                    await self._hooks.call("on_trace_end", tracer=tracer)
        finally:
            self._spans.extend(tracer.get_last_trace())

    async def _call_agent(self) -> Any:
        return await self._race(self._invoke_agent, AgentError, "The agent")

    def _invoke_agent(self) -> Invocation:
        variant = "training" if self.rollout.mode == "train" else "validation"
        arguments = {"resources": self._resources, "rollout": self.rollout}
        agent = self._at.agent
        if agent.is_async():
            method = getattr(agent, f"{variant}_rollout_async")
            return invoke_async(method(self.rollout.input, **arguments))
        method = getattr(agent, f"{variant}_rollout")
        return invoke_sync(lambda: method(self.rollout.input, **arguments))

    async def _grade(self, reward_fn: RewardFn, output: Any) -> Span:
        # From the store, not from the tracer: the gateway's calls are only there.
        spans = await self._at.store.query_spans(self.rollout.rollout_id, self.attempt_id)
        arguments = fitting_arguments(reward_fn, {"spans": spans, "rollout": self.rollout})

        def invoke() -> Invocation:
            if is_async_callable(reward_fn):
                return invoke_async(reward_fn(self.rollout.input, output, **arguments))
            return invoke_sync(lambda: reward_fn(self.rollout.input, output, **arguments))

        value = await self._race(invoke, RewardError, "The reward function")
        dimensions = read_reward(value)
        if dimensions is None:
            raise RewardError(
                f"The reward function returned {value!r}; return a number or a dict of numbers."
            )
        return reward_span(dimensions, self.rollout.attempt)

    async def _race(
        self, start: Callable[[], Invocation], failure: type[RolloutError], what: str
    ) -> Any:
        """Return what users' code returns, unless it raises, is stopped, or takes too long."""
        if self._stopped.done():
            raise self._stop_error()
        invocation = start()
        try:
            await asyncio.wait(
                {invocation.future, self._stopped},
                timeout=None if self._deadline is None else max(0.0, self._deadline - monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not invocation.future.done():
                raise self._stop_error()
        finally:
            await invocation.abandon()
        if invocation.future.cancelled():
            raise failure(f"{what} cancelled its own task.")
        error = invocation.future.exception()
        if isinstance(error, RolloutError) and not isinstance(error, AgentError):
            # An agent may say itself that its failure is of another class, such as a timeout.
            raise error
        if error is not None:
            raise failure(f"{what} raised {error!r}.") from error
        return invocation.future.result()

    def _stop_error(self) -> RolloutError:
        if self._stopped.done() and self._stopped.result() != "timeout":
            return RolloutStoppedError(self._stopped.result())
        seconds = self.rollout.config.timeout_seconds
        return AgentTimeoutError(f"The agent ran longer than its {seconds} seconds.")

    def _settlement(self) -> Settlement:
        return Settlement(
            rollout=self.rollout,
            resources=self._resources,
            store=self._at.store,
            tracer=self._at.tracer,
            sealer=self._at.sealer,
            own_spans=self._own_spans,
            output=self._output,
            hook_errors=self._hooks.errors,
            give_back=self._give_back,
        )

    def _log_failure(self) -> None:
        if self.error is not None:
            logger.warning(
                "rollout failed",
                extra={
                    "rollout_id": self.rollout.rollout_id,
                    "attempt_id": self.attempt_id,
                    "outcome": outcome_of(self.error),
                },
                exc_info=self.error,
            )
