"""The client's calls about work: the queue, rollouts and attempts."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import quote

from agentlightning._internal.clock import monotonic
from agentlightning._internal.ids import new_rollout_id
from agentlightning.errors import InvalidRequestError, NotFoundError, StoreUnavailableError
from agentlightning.store.base import (
    UNSET,
    FilterLogic,
    LightningStore,
    SortOrder,
    Unset,
)
from agentlightning.store.http.client_page import fetch_page, given
from agentlightning.store.http.operation import API_PREFIX
from agentlightning.store.http.routes_queue import WAIT_COMPLETE_HEADER
from agentlightning.store.http.transport import Transport, new_key
from agentlightning.store.http.wire import encode, rollout_from_wire
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

__all__ = ["WorkCalls"]

logger = logging.getLogger(__name__)

WAIT_SLICE_SECONDS: Final = 20.0
"""Longest wait asked of the server in one request."""

OUTAGE_PAUSE_SECONDS: Final = 0.5
"""Pause before a waiting claim asks again a server that could not be reached."""


class WorkCalls(LightningStore):
    """Part of the client; `_transport` is set by it."""

    _transport: Transport
    _in_outage: bool = False

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
        body = {
            "rollout_id": rollout_id,
            "lease_seconds": lease_seconds,
            "input": input,
            "mode": mode,
            "resources_id": resources_id,
            "config": config,
            "metadata": metadata,
            "worker_id": worker_id,
        }
        raw = await self._post("/rollouts", body)
        return AttemptedRollout.model_validate(raw)

    async def enqueue_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        rollout_id: str | None = None,
    ) -> Rollout:
        request = EnqueueRolloutRequest.model_construct(
            input=input,
            mode=mode,
            resources_id=resources_id,
            config=config,
            metadata=metadata,
            rollout_id=rollout_id,
        )
        return (await self.enqueue_many_rollouts([request]))[0]

    async def enqueue_many_rollouts(
        self, rollouts: Sequence[EnqueueRolloutRequest]
    ) -> Sequence[Rollout]:
        if not rollouts:
            return []
        # Why: ids made here let the request be repeated, also after the server was restarted.
        named = [
            request
            if request.rollout_id
            else request.model_copy(update={"rollout_id": new_rollout_id()})
            for request in rollouts
        ]
        raw = await self._post("/queues/rollouts/enqueue", {"rollouts": named})
        return [Rollout.model_validate(item) for item in raw]

    async def dequeue_rollout(
        self,
        worker_id: str | None = None,
        *,
        wait_seconds: float = 0.0,
        lease_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AttemptedRollout | None:
        claims = await self.dequeue_many_rollouts(
            worker_id=worker_id,
            wait_seconds=wait_seconds,
            lease_seconds=lease_seconds,
            metadata=metadata,
        )
        return claims[0] if claims else None

    async def dequeue_many_rollouts(
        self,
        *,
        limit: int = 1,
        worker_id: str | None = None,
        wait_seconds: float = 0.0,
        lease_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[AttemptedRollout]:
        """Claim up to `limit` rollouts; see the base class.

        A store that cannot be reached is asked again until `wait_seconds` are over, and then
        counts as one without work, so that a worker outlives a restart of its store; a warning
        is logged once per outage.
        """
        deadline = monotonic() + wait_seconds
        body: dict[str, Any] = {"limit": limit, "worker_id": worker_id}
        if lease_seconds is not None:
            body["lease_seconds"] = lease_seconds
        if metadata is not None:
            body["metadata"] = metadata
        key = new_key()
        while limit > 0:
            remaining = max(0.0, deadline - monotonic())
            body["wait_seconds"] = seconds = min(remaining, WAIT_SLICE_SECONDS)
            try:
                raw = await self._post(
                    "/queues/rollouts/dequeue", body, extra_seconds=seconds, key=key
                )
            except StoreUnavailableError as error:
                self._note_outage(error)
                raw = []
                await asyncio.sleep(min(OUTAGE_PAUSE_SECONDS, deadline - monotonic()))
            else:
                self._in_outage = False
                # After an outage the key stays: the server may have answered, to nobody.
                key = new_key()
            if raw or monotonic() >= deadline:
                return [AttemptedRollout.model_validate(item) for item in raw]
        return []

    def _note_outage(self, error: StoreUnavailableError) -> None:
        if not self._in_outage:
            logger.warning("no work can be claimed", extra={"reason": str(error)})
        self._in_outage = True

    async def start_attempt(
        self,
        rollout_id: str,
        worker_id: str | None = None,
        *,
        attempt_id: str | None = None,
        lease_seconds: float | None = None,
    ) -> AttemptedRollout:
        path = f"/rollouts/{quote(rollout_id, safe='')}/attempts"
        body = {"worker_id": worker_id, "attempt_id": attempt_id, "lease_seconds": lease_seconds}
        raw = await self._post(path, body)
        return AttemptedRollout.model_validate(raw)

    async def query_rollouts(
        self,
        *,
        status_in: Sequence[RolloutStatus] | None = None,
        rollout_id_in: Sequence[str] | None = None,
        rollout_id_contains: str | None = None,
        mode_in: Sequence[RolloutMode] | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[Rollout | AttemptedRollout]:
        query = {
            "metadata": metadata,
            "status_in": status if status_in is None else status_in,
            "rollout_id_in": rollout_ids if rollout_id_in is None else rollout_id_in,
            "rollout_id_contains": rollout_id_contains,
            "mode_in": mode_in,
            "filter_logic": filter_logic,
            "sort_by": sort_by,
            "sort_order": sort_order,
        }
        return await fetch_page(
            self._transport, "/rollouts/search", query, limit, offset, rollout_from_wire
        )

    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Sequence[Attempt]:
        path = f"/rollouts/{quote(rollout_id, safe='')}/attempts/search"
        query = {"sort_by": sort_by, "sort_order": sort_order}
        return await fetch_page(self._transport, path, query, limit, offset, Attempt.model_validate)

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | AttemptedRollout | None:
        try:
            raw = await self._get(f"/rollouts/{quote(rollout_id, safe='')}")
        except NotFoundError:
            return None
        return rollout_from_wire(raw)

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        raw = await self._get(f"/rollouts/{quote(rollout_id, safe='')}/attempts/latest")
        return None if raw is None else Attempt.model_validate(raw)

    async def wait_for_rollouts(
        self, *, rollout_ids: list[str], timeout: float | None = None
    ) -> list[Rollout]:
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            remaining = WAIT_SLICE_SECONDS if deadline is None else deadline - monotonic()
            seconds = max(0.0, min(remaining, WAIT_SLICE_SECONDS))
            answer = await self._transport.request(
                "POST",
                API_PREFIX + "/waits/rollouts",
                encode({"rollout_ids": rollout_ids, "timeout": seconds}),
                extra_seconds=seconds,
            )
            complete = answer.headers.get(WAIT_COMPLETE_HEADER) != "false"
            if complete or (deadline is not None and monotonic() >= deadline):
                return [rollout_from_wire(item) for item in answer.json()]

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
        body = given(
            input=input,
            mode=mode,
            resources_id=resources_id,
            status=status,
            config=config,
            metadata=metadata,
        )
        return rollout_from_wire(await self._post(f"/rollouts/{quote(rollout_id, safe='')}", body))

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"],
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset = UNSET,
    ) -> Attempt:
        body = given(
            status=status,
            worker_id=worker_id,
            last_heartbeat_time=last_heartbeat_time,
            metadata=metadata,
        )
        path = f"/rollouts/{quote(rollout_id, safe='')}/attempts/{quote(attempt_id, safe='')}"
        return Attempt.model_validate(await self._post(path, body))

    async def finish_rollout(
        self,
        rollout_id: str,
        attempt_id: str | None = None,
        *,
        reward: float | dict[str, float] | None = None,
        output: Any = None,
    ) -> Rollout:
        values = reward.values() if isinstance(reward, dict) else [reward]
        if not all(value is None or math.isfinite(value) for value in values):
            raise InvalidRequestError(f"The reward {reward!r} is no finite number.")
        body = {"attempt_id": attempt_id, "reward": reward, "output": output}
        path = f"/rollouts/{quote(rollout_id, safe='')}/finish"
        return rollout_from_wire(await self._post(path, body))

    async def fail_rollout(
        self, rollout_id: str, attempt_id: str | None = None, *, error: str | None = None
    ) -> Rollout:
        path = f"/rollouts/{quote(rollout_id, safe='')}/fail"
        body = {"attempt_id": attempt_id, "error": error}
        return rollout_from_wire(await self._post(path, body))

    async def _get(self, path: str) -> Any:
        return (await self._transport.request("GET", API_PREFIX + path)).json()

    async def _post(
        self, path: str, body: Any, *, extra_seconds: float = 0.0, key: str | None = None
    ) -> Any:
        answer = await self._transport.request(
            "POST", API_PREFIX + path, encode(body), extra_seconds=extra_seconds, key=key
        )
        return answer.json()
