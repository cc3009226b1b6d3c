"""Making rollouts and claiming them: from a task to an attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from agentlightning._internal.aio import CommittedThenCancelledError
from agentlightning._internal.clock import monotonic
from agentlightning._internal.ids import new_attempt_id, new_rollout_id
from agentlightning.errors import ConflictError, InvalidRequestError
from agentlightning.store.collection_based import worker_state
from agentlightning.store.collection_based.frame import StoreFrame, healthcheck_before, tracked
from agentlightning.store.collection_based.replies import CLAIM, CLAIMS, ROLLOUTS
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.lifecycle import (
    begin_attempt,
    is_ended,
    is_fenced,
    is_waiting,
    on_rollout_status,
)
from agentlightning.store.record import attempted, build, detached, replace
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    EnqueueRolloutRequest,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    TaskInput,
)

_PEEK: Final = 500
"""Ids taken from the queue at once by one claim."""


@lru_cache(maxsize=256)
def _shared_config(
    timeout_seconds: float | None,
    unresponsive_seconds: float | None,
    max_attempts: int,
    retry_condition: tuple[AttemptStatus, ...],
) -> RolloutConfig:
    """Return the config that all rollouts with these terms share.

    Perf: of what a rollout keeps in memory, a config of its own would be half of the objects.
    """
    return RolloutConfig(
        timeout_seconds=timeout_seconds,
        unresponsive_seconds=unresponsive_seconds,
        max_attempts=max_attempts,
        retry_condition=list(retry_condition),
    )


_DEFAULT_CONFIG: Final = _shared_config(None, None, 1, ())


def _config(given: RolloutConfig | None) -> RolloutConfig:
    if given is None:
        return _DEFAULT_CONFIG
    return _shared_config(
        given.timeout_seconds,
        given.unresponsive_seconds,
        given.max_attempts,
        tuple(given.retry_condition),
    )


def _new_rollout(
    request: EnqueueRolloutRequest,
    status: RolloutStatus,
    resources_id: str | None,
    now: float,
) -> Rollout:
    # Perf: the request has been validated, and none of its values is of another kind here.
    return build(
        Rollout,
        {
            "rollout_id": request.rollout_id or new_rollout_id(),
            "input": request.input,
            "start_time": now,
            "end_time": None,
            "mode": request.mode,
            "resources_id": request.resources_id or resources_id,
            "status": status,
            "config": _config(request.config),
            "metadata": dict(request.metadata or {}),
        },
    )


def _plain_text(given: str | None) -> str | None:
    """Return a caller's id as `str` itself: of its subclasses some are packed as other things."""
    return str.__str__(given) if isinstance(given, str) else given


@dataclass(slots=True)
class _Claim:
    """Who claims, and on what terms."""

    worker_id: str | None
    lease_seconds: float | None
    metadata: Mapping[str, Any] | None = None
    """Only rollouts whose metadata holds all of these pairs."""

    def __post_init__(self) -> None:
        self.worker_id = _plain_text(self.worker_id)
        if self.lease_seconds is not None and not self.lease_seconds > 0:
            raise InvalidRequestError(
                f"lease_seconds must be positive, not {self.lease_seconds}; "
                "leave it out for a claim without a lease."
            )


async def _queued(tx: Transaction, claim: _Claim, limit: int, seen: int) -> Sequence[str]:
    if claim.metadata is None:
        return await tx.rows.find_queued(limit, seen)
    return await tx.rows.find_queued(limit, seen, metadata=claim.metadata)


def _started_before(rollout: Rollout, attempt: Attempt | None) -> AttemptedRollout:
    if attempt is None:
        raise ConflictError(
            f"Rollout {rollout.rollout_id} is {rollout.status} and was not started; claim it with "
            "dequeue_rollout or start_attempt, or start one under another id."
        )
    return attempted(rollout, attempt)


def _begin(
    tx: Transaction,
    rollout: Rollout,
    latest: Attempt | None,
    claim: _Claim,
    *,
    pinned: str | None,
    attempt_id: str | None = None,
) -> AttemptedRollout:
    """Start the next attempt of a stored rollout, which gets the resources `pinned` if it has
    none.
    """
    outcome = begin_attempt(
        rollout,
        attempt_id=attempt_id or new_attempt_id(),
        sequence_id=latest.sequence_id + 1 if latest is not None else 1,
        worker_id=claim.worker_id,
        now=tx.now,
        lease_seconds=claim.lease_seconds,
    )
    begun, attempt = outcome.rollout, outcome.attempt
    if pinned is not None and begun.resources_id is None:
        begun = replace(begun, resources_id=pinned)
    tx.add_attempt(attempt)
    if begun is not rollout:
        tx.put_rollout(begun)
    tx.attempt_event("attempt_started", begun, attempt)
    tx.note_deadline(begun, attempt)
    return attempted(begun, attempt)


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
        *,
        rollout_id: str | None = None,
        lease_seconds: float | None = None,
    ) -> AttemptedRollout:
        request = EnqueueRolloutRequest(
            input=input,
            mode=mode,
            resources_id=resources_id,
            config=config,
            metadata=metadata,
            rollout_id=rollout_id,
        )
        claim = _Claim(worker_id, lease_seconds)

        async def step(tx: Transaction) -> AttemptedRollout:
            if rollout_id is not None:
                known, attempt = await tx.rollout_with_latest(rollout_id)
                if known is not None:
                    return _started_before(known, attempt)
            latest = None if resources_id else await tx.newest_resources_id()
            rollout = _new_rollout(request, "preparing", latest, tx.now)
            tx.add_rollout(rollout)
            return await self._begin_past_queue(tx, rollout, None, claim)

        return await self._once("start_rollout", step, CLAIM)

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
            latest = await tx.newest_resources_id()
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
                result.append(detached(known))
            return result

        return await self._once("enqueue", step, ROLLOUTS)

    @tracked
    @healthcheck_before
    async def dequeue_rollout(
        self,
        worker_id: str | None = None,
        *,
        wait_seconds: float = 0.0,
        lease_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AttemptedRollout | None:
        claim = _Claim(worker_id, lease_seconds, metadata or None)
        claimed = await self._dequeue(claim, 1, wait_seconds)
        return claimed[0] if claimed else None

    @tracked
    @healthcheck_before
    async def dequeue_many_rollouts(
        self,
        *,
        limit: int = 1,
        worker_id: str | None = None,
        wait_seconds: float = 0.0,
        lease_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[AttemptedRollout]:
        claim = _Claim(worker_id, lease_seconds, metadata or None)
        if limit <= 0:
            return []
        return await self._dequeue(claim, limit, wait_seconds)

    async def _dequeue(
        self, claim: _Claim, limit: int, wait_seconds: float
    ) -> list[AttemptedRollout]:
        if wait_seconds <= 0:
            return await self._claim(claim, limit)
        if claim.metadata:
            with self._changes.choosing():
                return await self._wait_for_claim(claim, limit, wait_seconds)
        return await self._wait_for_claim(claim, limit, wait_seconds)

    async def _wait_for_claim(
        self, claim: _Claim, limit: int, wait_seconds: float
    ) -> list[AttemptedRollout]:
        self._watch()
        end = monotonic() + wait_seconds
        line = self._changes.work
        while True:
            # Joining before looking closes the gap in which a wake-up would be lost.
            waiter = line.join()
            unused = True
            try:
                claimed = await self._claim(claim, limit)
                left = end - monotonic()
                if claimed or left <= 0:
                    return claimed
                await self._pause(waiter, left)
                unused = False
            finally:
                line.leave(waiter, pass_on=unused)

    async def _claim(self, claim: _Claim, limit: int) -> list[AttemptedRollout]:
        try:
            return await self._take(claim, limit)
        except CommittedThenCancelledError as late:
            # Nobody will ever know of these claims, so they are undone.
            await self._give_back(late.result)
            raise

    async def _give_back(self, claimed: Sequence[AttemptedRollout]) -> None:
        async def step(tx: Transaction) -> None:
            for claim in claimed:
                rollout, latest = await tx.rollout_with_latest(claim.rollout_id)
                if rollout is None or latest is None:
                    continue
                ours = latest.attempt_id == claim.attempt.attempt_id
                if is_fenced(rollout, latest, latest=ours):
                    # Somebody has taken it away since, and seen to it that it goes on.
                    continue
                await tx.release_worker(latest)
                tx.remove_attempt(latest)
                tx.put_rollout(on_rollout_status(rollout, "requeuing", now=tx.now))
                await tx.queue(claim.rollout_id)

        if claimed:
            await self._write(step)

    async def _take(self, claim: _Claim, limit: int) -> list[AttemptedRollout]:
        async def step(tx: Transaction) -> list[AttemptedRollout]:
            claimed: list[AttemptedRollout] = []
            seen = 0
            while len(claimed) < limit:
                ids = await _queued(tx, claim, min(limit - len(claimed), _PEEK), seen)
                if not ids:
                    break
                seen += len(ids)
                tx.changes.unqueued.extend(ids)
                await tx.load(ids)
                pinned = await tx.newest_resources_id()
                for rollout_id in ids:
                    rollout, latest = tx.loaded(rollout_id)
                    # Whoever moved a rollout on without a claim left its id in the queue.
                    if rollout is not None and is_waiting(rollout):
                        claimed.append(_begin(tx, rollout, latest, claim, pinned=pinned))
            if claim.worker_id is None:
                return claimed
            if claimed:
                await tx.occupy_worker(claim.worker_id, claimed[-1].attempt, claimed=True)
            else:
                await self._note_no_work(tx, claim.worker_id)
            return claimed

        return await self._once("dequeue", step, CLAIMS)

    async def _note_no_work(self, tx: Transaction, worker_id: str) -> None:
        before = await tx.worker(worker_id)
        if before.current_rollout_id and before.current_attempt_id:
            attempt = await tx.find_attempt(before.current_rollout_id, before.current_attempt_id)
            if attempt is not None and not is_ended(attempt):
                # It asks for more while it still works, so it is not idle.
                tx.put_worker(replace(before, last_dequeue_time=tx.now), before=before)
                return
        tx.put_worker(worker_state.without_work(before, now=tx.now), before=before)

    async def _begin_past_queue(
        self,
        tx: Transaction,
        rollout: Rollout,
        latest: Attempt | None,
        claim: _Claim,
        attempt_id: str | None = None,
    ) -> AttemptedRollout:
        pinned = await tx.newest_resources_id() if rollout.resources_id is None else None
        begun = _begin(tx, rollout, latest, claim, pinned=pinned, attempt_id=attempt_id)
        if claim.worker_id is not None:
            await tx.occupy_worker(claim.worker_id, begun.attempt, claimed=False)
        return begun

    @tracked
    @healthcheck_before
    async def start_attempt(
        self,
        rollout_id: str,
        worker_id: str | None = None,
        *,
        attempt_id: str | None = None,
        lease_seconds: float | None = None,
    ) -> AttemptedRollout:
        claim = _Claim(worker_id, lease_seconds)
        attempt_id = _plain_text(attempt_id)

        async def step(tx: Transaction) -> AttemptedRollout:
            rollout = await tx.rollout(rollout_id)
            latest = await tx.latest_attempt(rollout_id)
            if attempt_id is not None:
                known = await tx.find_attempt(rollout_id, attempt_id)
                if known is not None:
                    return attempted(rollout, known)
            if latest is not None and not is_ended(latest):
                await tx.take_away(rollout, latest, heir=worker_id)
            return await self._begin_past_queue(tx, rollout, latest, claim, attempt_id)

        return await self._once("start_attempt", step, CLAIM)
