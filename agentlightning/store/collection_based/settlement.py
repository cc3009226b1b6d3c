"""Changing rollouts and attempts: statuses, leases, results."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from agentlightning._internal.ids import attempt_trace_id
from agentlightning.errors import InvalidRequestError
from agentlightning.semconv import (
    AGL_ANNOTATION,
    LightningSpanAttributes,
    RewardAttributes,
)
from agentlightning.store.base import UNSET, Unset
from agentlightning.store.collection_based.frame import healthcheck_before, tracked
from agentlightning.store.collection_based.replies import ATTEMPT, ROLLOUT
from agentlightning.store.collection_based.spans import SpanMethods
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.lifecycle import (
    Outcome,
    is_active,
    is_ended,
    is_fenced,
    is_waiting,
    on_attempt_status,
    on_rollout_status,
)
from agentlightning.store.record import detached, replace
from agentlightning.types import (
    Attempt,
    AttemptStatus,
    Attributes,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Span,
    TaskInput,
)

_ROLLOUT_STATUSES: Final = frozenset(get_args(RolloutStatus))
_ATTEMPT_STATUSES: Final = frozenset(get_args(AttemptStatus))


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not UNSET}


def _reward_span(attempt: Attempt, reward: float | Mapping[str, float], now: float) -> Span:
    """Return the annotation that `finish_rollout` leaves; the same attempt gives the same span id,
    so that a repeated call adds nothing.
    """
    dimensions: dict[str, Any] = (
        dict(reward) if isinstance(reward, Mapping) else {"primary": reward}
    )
    attributes: Attributes = {}
    for index, (name, value) in enumerate(dimensions.items()):
        if not isinstance(value, int | float):
            raise InvalidRequestError(
                f"Reward {name!r} is {type(value).__name__}; give a number, or a dict of numbers."
            )
        prefix = f"{LightningSpanAttributes.REWARD.value}.{index}"
        attributes[f"{prefix}.{RewardAttributes.NAME.value}"] = name
        attributes[f"{prefix}.{RewardAttributes.VALUE.value}"] = float(value)
    ids = (attempt.rollout_id, attempt.attempt_id)
    return Span.from_attributes(
        attributes=attributes,
        rollout_id=attempt.rollout_id,
        attempt_id=attempt.attempt_id,
        name=AGL_ANNOTATION,
        trace_id=attempt_trace_id(*ids),
        span_id=hashlib.sha256("/".join((*ids, "finish")).encode()).hexdigest()[:16],
        start_time=now,
        end_time=now,
    )


class SettlementMethods(SpanMethods):
    """`update_rollout`, `update_attempt`, `finish_rollout` and `fail_rollout`."""

    @tracked
    @healthcheck_before
    async def update_rollout(
        self,
        rollout_id: str,
        input: TaskInput | Unset = UNSET,
        mode: RolloutMode | Unset | None = UNSET,
        resources_id: str | Unset | None = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Rollout:
        if isinstance(config, RolloutConfig):
            # The caller may go on to change its own.
            config = config.model_copy(deep=True)
        changes = _given(
            input=input, mode=mode, resources_id=resources_id, config=config, metadata=metadata
        )

        async def step(tx: Transaction) -> Rollout:
            before = await tx.rollout(rollout_id)
            after = Rollout.model_validate({**before.__dict__, **changes}) if changes else before
            if not isinstance(status, Unset):
                if status not in _ROLLOUT_STATUSES:
                    raise InvalidRequestError(f"{status!r} is no status of a rollout.")
                after = on_rollout_status(after, status, now=tx.now)
                if is_waiting(after):
                    await tx.queue(rollout_id)
            if after is not before:
                tx.put_rollout(after)
                await self._take_away(tx, after)
            if "config" in changes and (latest := await tx.latest_attempt(rollout_id)):
                tx.note_deadline(after, latest)
            return detached(after)

        # Queueing again is all that a repeat could do to a worker who has claimed it since.
        again = status in {"queuing", "requeuing"}
        return await (self._once("update_rollout", step, ROLLOUT) if again else self._write(step))

    async def _take_away(self, tx: Transaction, rollout: Rollout) -> None:
        """End the attempt that is under way, if its rollout is no longer being worked on."""
        if is_active(rollout):
            return
        live = await tx.latest_attempt(rollout.rollout_id)
        if live is not None and not is_ended(live):
            await tx.take_away(rollout, live)

    @tracked
    @healthcheck_before
    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"],
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset = UNSET,
    ) -> Attempt:
        changes = _given(
            worker_id=worker_id, last_heartbeat_time=last_heartbeat_time, metadata=metadata
        )

        async def step(tx: Transaction) -> Attempt:
            return await self._change_attempt(tx, rollout_id, attempt_id, status, changes)

        # By its id, the same change of the same attempt may be made again.
        if attempt_id != "latest":
            return await self._write(step)
        return await self._once("update_attempt", step, ATTEMPT)

    async def _change_attempt(
        self,
        tx: Transaction,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus | Unset,
        changes: dict[str, Any],
    ) -> Attempt:
        rollout, before, latest = await tx.work(rollout_id, attempt_id)
        if before.lease_seconds is not None and not is_ended(before):
            # The store's clock decides about leases, so the worker's may be wrong.
            changes = {**changes, "last_heartbeat_time": tx.now}
        changed = Attempt.model_validate({**before.__dict__, **changes}) if changes else before
        outcome = Outcome(rollout, changed)
        if not isinstance(status, Unset):
            if status not in _ATTEMPT_STATUSES:
                raise InvalidRequestError(f"{status!r} is no status of an attempt.")
            outcome = on_attempt_status(rollout, changed, status, latest=latest, now=tx.now)
        await tx.apply(rollout, before, outcome)
        attempt = outcome.attempt
        if attempt is not before and attempt.status == before.status:
            tx.attempt_event("attempt_updated", outcome.rollout, attempt)
        tx.note_deadline(outcome.rollout, attempt)
        if attempt.worker_id is not None and ("worker_id" in changes or status is not UNSET):
            if is_ended(attempt):
                await tx.release_worker(attempt)
            elif not is_fenced(rollout, attempt, latest=latest):
                await tx.occupy_worker(attempt.worker_id, attempt, claimed=False)
        return replace(attempt)

    @tracked
    async def finish_rollout(
        self,
        rollout_id: str,
        attempt_id: str | None = None,
        *,
        reward: float | dict[str, float] | None = None,
        output: Any = None,
    ) -> Rollout:
        result = {"outcome": "ok"} if output is None else {"outcome": "ok", "output": output}

        async def step(tx: Transaction) -> Rollout:
            _, attempt, _ = await tx.work(rollout_id, attempt_id or "latest")
            if reward is not None and not is_ended(attempt):
                await self._store_spans(tx, [_reward_span(attempt, reward, tx.now)])
            return await self._settle(tx, attempt, "succeeded", result)

        return await self._once("finish_rollout", step, ROLLOUT)

    @tracked
    async def fail_rollout(
        self, rollout_id: str, attempt_id: str | None = None, *, error: str | None = None
    ) -> Rollout:
        result: dict[str, Any] = {"outcome": "agent_error"}
        if error is not None:
            result["error"] = {"type": "AgentError", "message": error, "traceback": None}

        async def step(tx: Transaction) -> Rollout:
            _, attempt, _ = await tx.work(rollout_id, attempt_id or "latest")
            return await self._settle(tx, attempt, "failed", result)

        return await self._once("fail_rollout", step, ROLLOUT)

    async def _settle(
        self, tx: Transaction, attempt: Attempt, status: AttemptStatus, result: dict[str, Any]
    ) -> Rollout:
        known = attempt.metadata or {}
        if not is_ended(attempt):
            metadata = {**known, **result}
        else:
            # What was settled first stands; the same end told again may add what was left out.
            metadata = {**result, **known} if attempt.status == status else known
        changes = {"metadata": metadata}
        rollout_id = attempt.rollout_id
        await self._change_attempt(tx, rollout_id, attempt.attempt_id, status, changes)
        return detached(await tx.rollout(rollout_id))
