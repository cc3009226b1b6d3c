"""Making rollouts and claiming them: from a task to an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
            latest = None if resources_id else await self._latest_resources_id(tx)
            rollout = _new_rollout(request, "preparing", latest, tx.now)
            await tx.rows.rollouts.insert([rollout])
            tx.rollout_event("rollout_created", rollout)
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
            latest = await self._latest_resources_id(tx)
            result: list[Rollout] = []
            new: dict[str, Rollout] = {}
            for request in requests:
                known = await self._enqueued_before(tx, request.rollout_id, new)
                if known is None:
                    known = _new_rollout(request, "queuing", latest, tx.now)
                    new[known.rollout_id] = known
                result.append(known)
            await tx.rows.rollouts.insert(list(new.values()))
            await tx.rows.rollout_queue.enqueue(list(new))
            for rollout in new.values():
                tx.rollout_event("rollout_created", rollout)
            return [replace(rollout) for rollout in result]

        return await self._write(step)

    async def _enqueued_before(
        self, tx: Transaction, rollout_id: str | None, new: dict[str, Rollout]
    ) -> Rollout | None:
        if rollout_id is None:
            return None
        if rollout_id in new:
            return new[rollout_id]
        return await tx.rows.rollouts.get({"rollout_id": {"exact": rollout_id}})

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
                await tx.rows.attempts.delete([claim.attempt])
                rollout = await tx.rollout(claim.rollout_id)
                returned = on_rollout_status(rollout, "requeuing", now=tx.now)
                await tx.rows.rollouts.update([returned])
                await tx.queue(claim.rollout_id)
                tx.rollout_event("rollout_updated", returned)

        if claimed:
            await self._write(step)

    async def _take(self, limit: int, worker_id: str | None) -> list[AttemptedRollout]:
        async def step(tx: Transaction) -> list[AttemptedRollout]:
            claimed: list[AttemptedRollout] = []
            while len(claimed) < limit:
                ids = await tx.rows.rollout_queue.dequeue(limit - len(claimed))
                if not ids:
                    break
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
            attempt = await tx.rows.attempts.get(
                {
                    "rollout_id": {"exact": before.current_rollout_id},
                    "attempt_id": {"exact": before.current_attempt_id},
                }
            )
            if attempt is not None and not is_ended(attempt):
                # It asks for more while it still works, so it is not idle.
                await tx.put_worker(replace(before, last_dequeue_time=tx.now), before=before)
                return
        await tx.put_worker(worker_state.without_work(before, now=tx.now), before=before)

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
            pinned = await self._latest_resources_id(tx)
            if pinned is not None:
                begun = replace(begun, resources_id=pinned)
        await tx.rows.attempts.insert([attempt])
        if begun is not rollout:
            await tx.rows.rollouts.update([begun])
            tx.rollout_event("rollout_updated", begun)
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
