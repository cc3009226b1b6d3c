"""The claim loop of one worker: take work as slots come free, run it, stop when told."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import monotonic
from agentlightning.errors import StoreError
from agentlightning.runner.attempt import AttemptRun
from agentlightning.types import AttemptedRollout

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["ClaimLoop", "ClaimPolicy"]

logger = logging.getLogger(__name__)

OUTAGE_SECONDS = 300.0
"""How long claiming is tried again while the store cannot be reached."""

_RETRY_SECONDS = 1.0
_MOST_AT_ONCE = 16
"""Rollouts taken by one claim, so that one worker does not empty the queue of the others."""

_SETTLE_SECONDS = 10.0
"""How long interrupted attempts may take to settle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPolicy:
    """How a worker takes work."""

    worker_id: str
    concurrency: int
    """Rollouts under way at once."""
    max_rollouts: int | None
    """How many to take in all; None for no limit."""
    wait_seconds: float
    """Longest wait of one claim; the store answers as soon as there is work."""
    jitter_seconds: float
    """Spread of that wait where the store cannot wait and is asked again and again."""
    lease_seconds: float | None = None
    """Longest silence after which the store may give a claim to somebody else."""


class ClaimLoop:
    """Keeps up to `concurrency` attempts running; belongs to one event loop."""

    def __init__(
        self,
        store: LightningStore,
        policy: ClaimPolicy,
        start: Callable[[AttemptedRollout], AttemptRun],
    ) -> None:
        """Bind the store, the policy, and how an attempt is made of a claimed rollout."""
        self._store = store
        self._policy = policy
        self._start_run = start
        self.active: dict[str, AttemptRun] = {}
        """Attempts under way, by rollout id."""
        self.claim_in_doubt = False
        """A claim was broken off: the store may have given us work that we do not know of."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._taken = 0
        # Compat 0.3.0: stores of users may know neither `wait_seconds` nor leases.
        known = inspect.signature(store.dequeue_rollout).parameters
        self._store_waits = "wait_seconds" in known
        leased = policy.lease_seconds is not None and "lease_seconds" in known
        self._terms: dict[str, Any] = {"lease_seconds": policy.lease_seconds} if leased else {}

    async def run(self, stop: asyncio.Event) -> None:
        """Take and run work until `stop` is set or the limit is reached, then let it finish.

        Cancelling this call interrupts the attempts under way: they settle as interrupted and
        their rollouts go back into the queue.

        Raises:
            StoreError: The store refused, or could not be reached for five minutes.
        """
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set() and self._wanted() != 0:
                if not self._free():
                    await asyncio.wait(
                        {stopping, *self._tasks}, return_when=asyncio.FIRST_COMPLETED
                    )
                    continue
                for rollout in await self._claim(stopping):
                    self._begin(rollout)
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            stopping.cancel()
            await self._interrupt()

    def _free(self) -> int:
        return self._policy.concurrency - len(self._tasks)

    def _wanted(self) -> int:
        limit = self._policy.max_rollouts
        left = _MOST_AT_ONCE if limit is None else max(0, limit - self._taken)
        return min(left, _MOST_AT_ONCE)

    def _begin(self, rollout: AttemptedRollout) -> None:
        self._taken += 1
        run = self._start_run(rollout)
        before = self.active.get(rollout.rollout_id)
        if before is not None:
            # Taken from this worker and given to it again: nobody else would tell the old attempt.
            before.stop("lost")
        self.active[rollout.rollout_id] = run
        task = asyncio.create_task(run.run())
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if self.active.get(rollout.rollout_id) is run:
                del self.active[rollout.rollout_id]
            if not task.cancelled() and task.exception() is not None:
                logger.error("attempt broke off", exc_info=task.exception())

        task.add_done_callback(done)

    async def _claim(self, stopping: asyncio.Task[bool]) -> Sequence[AttemptedRollout]:
        """Return claimed rollouts; none when told to stop, or when there is no work."""
        asking = asyncio.create_task(self._ask())
        try:
            await asyncio.wait({asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not asking.done():
                self.claim_in_doubt = True
                asking.cancel()
                await asyncio.wait({asking})
        return () if asking.cancelled() else asking.result()

    async def _ask(self) -> Sequence[AttemptedRollout]:
        deadline = monotonic() + OUTAGE_SECONDS
        while True:
            try:
                return await self._ask_once()
            except (StoreError, OSError) as error:
                retryable = getattr(error, "retryable", True)
                if not retryable or monotonic() > deadline:
                    raise
                logger.warning("store cannot be reached; claiming again", exc_info=error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _ask_once(self) -> Sequence[AttemptedRollout]:
        policy, store = self._policy, self._store
        if not self._store_waits:
            rollout = await store.dequeue_rollout(policy.worker_id)
            if rollout is None:
                jitter = random.uniform(-1, 1) * policy.jitter_seconds
                await asyncio.sleep(max(0.0, policy.wait_seconds + jitter))
            return () if rollout is None else (rollout,)
        limit = min(self._free(), self._wanted())
        if limit == 1:
            rollout = await store.dequeue_rollout(
                policy.worker_id, wait_seconds=policy.wait_seconds, **self._terms
            )
            return () if rollout is None else (rollout,)
        return await store.dequeue_many_rollouts(
            limit=limit,
            worker_id=policy.worker_id,
            wait_seconds=policy.wait_seconds,
            **self._terms,
        )

    async def _interrupt(self) -> None:
        for run in self.active.values():
            run.stop("interrupted")
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_SETTLE_SECONDS)
            for task in late:
                task.cancel()
