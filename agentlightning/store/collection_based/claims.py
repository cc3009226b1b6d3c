"""Making rollouts and claiming them: from a task to an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agentlightning._internal.aio import CommittedThenCancelledError
from agentlightning._internal.clock import monotonic
from agentlightning._internal.ids import new_attempt_id, new_rollout_id
from agentlightning.store.collection_based import worker_state
from agentlightning.store.collection_based.frame import StoreFrame, healthcheck_before, tracked
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.events import RECHECK_SECONDS
from agentlightning.store.lifecycle import begin_attempt, is_ended, is_waiting, on_rollout_status
from agentlightning.store.record import attempted, replace
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    EnqueueRolloutRequest,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    TaskInput,
)

_PEEK: Final = 500
"""Ids taken from the queue at once by one claim."""


def _new_rollout(
    request: EnqueueRolloutRequest,
    status: RolloutStatus,
    resources_id: str | None,
    now: float,
) -> Rollout:
    config = request.config
    return Rollout(
        rollout_id=request.rollout_id or new_rollout_id(),
        input=request.input,
        start_time=now,
        mode=request.mode,
        resources_id=request.resources_id or resources_id,
        status=status,
        config=RolloutConfig() if config is None else config.model_copy(deep=True),
        metadata=dict(request.metadata or {}),
    )


class ClaimMethods(StoreFrame):
    """`start_rollout`, `enqueue_*`, `dequeue_*` and `start_attempt`."""

    @tracked
    @healthcheck_before
    async def start_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
    ) -> AttemptedRollout:
        request = EnqueueRolloutRequest(
            input=input, mode=mode, resources_id=resources_id, config=config, metadata=metadata
        )

        async def step(tx: Transaction) -> AttemptedRollout:
            latest = None if resources_id else await tx.rows.find_newest_resources_id()
            rollout = _new_rollout(request, "preparing", latest, tx.now)
            tx.add_rollout(rollout)
            rollout, attempt = await self._begin(tx, rollout, None, worker_id)
            if worker_id is not None:
                await tx.occupy_worker(worker_id, attempt, claimed=False)
            return attempted(rollout, attempt)

        return await self._write(step)

    @tracked
    @healthcheck_before
    async def enqueue_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        rollout_id: str | None = None,
    ) -> Rollout:
        request = EnqueueRolloutRequest(
            input=input,
            mode=mode,
            resources_id=resources_id,
            config=config,
            metadata=metadata,
            rollout_id=rollout_id,
        )
        return (await self._enqueue([request]))[0]

    @tracked
    @healthcheck_before
    async def enqueue_many_rollouts(
        self, rollouts: Sequence[EnqueueRolloutRequest]
    ) -> Sequence[Rollout]:
        return await self._enqueue(rollouts)

    async def _enqueue(self, requests: Sequence[EnqueueRolloutRequest]) -> list[Rollout]:
        if not requests:
            return []

        async def step(tx: Transaction) -> list[Rollout]:
            latest = await tx.rows.find_newest_resources_id()
            given = [request.rollout_id for request in requests if request.rollout_id is not None]
            if given:
                await tx.load(given, attempts=False)
            result: list[Rollout] = []
            for request in requests:
                known = await tx.find_rollout(request.rollout_id) if request.rollout_id else None
                if known is None:
                    known = _new_rollout(request, "queuing", latest, tx.now)
                    tx.add_rollout(known)
                    tx.changes.queued[known.rollout_id] = None
                result.append(replace(known))
            return result

        return await self._write(step)

    @tracked
    @healthcheck_before
    async def dequeue_rollout(
        self, worker_id: str | None = None, *, wait_seconds: float = 0.0
    ) -> AttemptedRollout | None:
        claimed = await self._dequeue(1, worker_id, wait_seconds)
        return claimed[0] if claimed else None

    @tracked
    @healthcheck_before
    async def dequeue_many_rollouts(
        self, *, limit: int = 1, worker_id: str | None = None, wait_seconds: float = 0.0
    ) -> Sequence[AttemptedRollout]:
        if limit <= 0:
            return []
        return await self._dequeue(limit, worker_id, wait_seconds)

    async def _dequeue(
        self, limit: int, worker_id: str | None, wait_seconds: float
    ) -> list[AttemptedRollout]:
        if wait_seconds <= 0:
            return await self._claim(limit, worker_id)
        self._watch()
        end = monotonic() + wait_seconds
        line = self._changes.work
        while True:
            # Joining before looking closes the gap in which a wake-up would be lost.
            waiter = line.join()
            unused = True
            try:
                claimed = await self._claim(limit, worker_id)
                left = end - monotonic()
                if claimed or left <= 0:
                    return claimed
                await waiter.wait(min(left, RECHECK_SECONDS))
                unused = False
                await self.scan_if_due()
            finally:
                line.leave(waiter, pass_on=unused)

    async def _claim(self, limit: int, worker_id: str | None) -> list[AttemptedRollout]:
        try:
            return await self._take(limit, worker_id)
        except CommittedThenCancelledError as late:
            # Nobody will ever know of these claims, so they are undone.
            await self._give_back(late.result)
            raise

    async def _give_back(self, claimed: Sequence[AttemptedRollout]) -> None:
        async def step(tx: Transaction) -> None:
            for claim in claimed:
                rollout = await tx.rollout(claim.rollout_id)
                tx.remove_attempt(claim.attempt)
                tx.put_rollout(on_rollout_status(rollout, "requeuing", now=tx.now))
                await tx.queue(claim.rollout_id)

        if claimed:
            await self._write(step)

    async def _take(self, limit: int, worker_id: str | None) -> list[AttemptedRollout]:
        async def step(tx: Transaction) -> list[AttemptedRollout]:
            claimed: list[AttemptedRollout] = []
            seen = 0
            while len(claimed) < limit:
                ids = await tx.rows.find_queued(min(limit - len(claimed), _PEEK), seen)
                if not ids:
                    break
                seen += len(ids)
                tx.changes.unqueued.extend(ids)
                await tx.load(ids)
                for rollout_id in ids:
                    rollout, latest = await tx.rollout_with_latest(rollout_id)
                    # Whoever moved a rollout on without a claim left its id in the queue.
                    if rollout is not None and is_waiting(rollout):
                        claimed.append(
                            attempted(*await self._begin(tx, rollout, latest, worker_id))
                        )
            if worker_id is not None:
                await self._note_claims(tx, worker_id, claimed)
            return claimed

        return await self._write(step)

    async def _note_claims(
        self, tx: Transaction, worker_id: str, claimed: Sequence[AttemptedRollout]
    ) -> None:
        if claimed:
            await tx.occupy_worker(worker_id, claimed[-1].attempt, claimed=True)
            return
        before = await tx.worker(worker_id)
        if before.current_rollout_id and before.current_attempt_id:
            attempt = await tx.find_attempt(before.current_rollout_id, before.current_attempt_id)
            if attempt is not None and not is_ended(attempt):
                # It asks for more while it still works, so it is not idle.
                tx.put_worker(replace(before, last_dequeue_time=tx.now), before=before)
                return
        tx.put_worker(worker_state.without_work(before, now=tx.now), before=before)

    async def _begin(
        self, tx: Transaction, rollout: Rollout, latest: Attempt | None, worker_id: str | None
    ) -> tuple[Rollout, Attempt]:
        """Start the next attempt of a stored rollout, and return both as stored."""
        outcome = begin_attempt(
            rollout,
            attempt_id=new_attempt_id(),
            sequence_id=latest.sequence_id + 1 if latest is not None else 1,
            worker_id=worker_id,
            now=tx.now,
        )
        begun, attempt = outcome.rollout, outcome.attempt
        if begun.resources_id is None:
            pinned = await tx.rows.find_newest_resources_id()
            if pinned is not None:
                begun = replace(begun, resources_id=pinned)
        tx.add_attempt(attempt)
        if begun is not rollout:
            tx.put_rollout(begun)
        tx.attempt_event("attempt_started", begun, attempt)
        tx.note_deadline(begun, attempt)
        return begun, attempt

    @tracked
    @healthcheck_before
    async def start_attempt(
        self, rollout_id: str, worker_id: str | None = None
    ) -> AttemptedRollout:
        async def step(tx: Transaction) -> AttemptedRollout:
            rollout = await tx.rollout(rollout_id)
            latest = await tx.latest_attempt(rollout_id)
            rollout, attempt = await self._begin(tx, rollout, latest, worker_id)
            if worker_id is not None:
                await tx.occupy_worker(worker_id, attempt, claimed=False)
            return attempted(rollout, attempt)

        return await self._write(step)
