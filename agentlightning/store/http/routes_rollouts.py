"""Routes of the queue, of rollouts and of their attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from agentlightning._internal.clock import monotonic
from agentlightning.errors import NotFoundError
from agentlightning.store.http.exchange import Exchange, Reply
from agentlightning.store.http.operation import Operation
from agentlightning.store.http.schemas import (
    AttemptSearch,
    AttemptUpdate,
    DequeueRequest,
    EnqueueRequest,
    FailRequest,
    FinishRequest,
    RolloutSearch,
    RolloutUpdate,
    Search,
    StartAttemptRequest,
    StartRequest,
    WaitRequest,
    reject_nulls,
)
from agentlightning.store.http.site import first_of
from agentlightning.store.http.wire import encode, page_body
from agentlightning.types import Attempt, AttemptedRollout, PaginatedResult, Rollout

__all__ = ["OPERATIONS", "WAIT_COMPLETE_HEADER"]

MAX_WAIT_SECONDS: Final = 30.0
"""Longest time one request may wait; clients ask again."""

DEQUEUE_SLICE_SECONDS: Final = 1.0
"""How often a waiting claim looks whether its client is still there."""

WAIT_COMPLETE_HEADER: Final = "x-agl-wait-complete"
"""`true` when waiting longer would bring nothing more."""


async def enqueue(exchange: Exchange) -> Sequence[Rollout]:
    """Put rollouts into the queue, in order."""
    requests = exchange.parse(EnqueueRequest).rollouts
    return await exchange.store.enqueue_many_rollouts(requests) if requests else []


async def dequeue(exchange: Exchange) -> Sequence[AttemptedRollout]:
    """Claim work, waiting for it if asked to."""
    body = exchange.parse_optional(DequeueRequest)
    if body.limit <= 0:
        return []
    if body.wait_seconds == 0:
        return await exchange.store.dequeue_many_rollouts(
            limit=body.limit, worker_id=body.worker_id
        )
    gone = asyncio.ensure_future(exchange.gone())
    try:
        claims = await _dequeue_waiting(exchange, body, gone)
        if claims and gone.done():
            exchange.site.give_back(claims, exchange.replay_key)
        return claims
    finally:
        gone.cancel()


async def _dequeue_waiting(
    exchange: Exchange, body: DequeueRequest, gone: asyncio.Future[None]
) -> Sequence[AttemptedRollout]:
    deadline = monotonic() + min(body.wait_seconds, MAX_WAIT_SECONDS)
    while True:
        # Why: a claim must never be cancelled half-way, so the wait is cut into slices instead.
        remaining = deadline - monotonic()
        claims = await exchange.store.dequeue_many_rollouts(
            limit=body.limit,
            worker_id=body.worker_id,
            wait_seconds=max(0.0, min(remaining, DEQUEUE_SLICE_SECONDS)),
        )
        if claims or remaining <= 0 or gone.done() or exchange.site.closing.is_set():
            return claims


async def start_rollout(exchange: Exchange) -> AttemptedRollout:
    """Create a rollout with its first attempt, past the queue."""
    body = exchange.parse(StartRequest)
    return await exchange.store.start_rollout(**{n: getattr(body, n) for n in _START_FIELDS})


_START_FIELDS: Final = tuple(StartRequest.model_fields)


async def list_rollouts(exchange: Exchange) -> dict[str, Any]:
    """List rollouts by a query string."""
    return await _rollouts(exchange, exchange.parse_query(RolloutSearch))


async def search_rollouts(exchange: Exchange) -> dict[str, Any]:
    """List rollouts by a JSON query."""
    return await _rollouts(exchange, exchange.parse_optional(RolloutSearch))


async def _rollouts(exchange: Exchange, search: RolloutSearch) -> dict[str, Any]:
    found = await exchange.store.query_rollouts(**search.checked())
    return page_body(found, search.limit, search.offset)


async def get_rollout(exchange: Exchange) -> Rollout:
    """Return one rollout with its latest attempt."""
    rollout_id = exchange.path["rollout_id"]
    rollout = await exchange.store.get_rollout_by_id(rollout_id)
    if rollout is None:
        raise NotFoundError(f"Rollout {rollout_id!r} is unknown.")
    return rollout


async def update_rollout(exchange: Exchange) -> Rollout:
    """Change the given fields of a rollout."""
    body = exchange.parse_optional(RolloutUpdate)
    reject_nulls(body, "status", "config")
    return await exchange.store.update_rollout(
        exchange.path["rollout_id"], **_given(body, RolloutUpdate)
    )


async def start_attempt(exchange: Exchange) -> AttemptedRollout:
    """Begin another attempt."""
    body = exchange.parse_optional(StartAttemptRequest)
    return await exchange.store.start_attempt(exchange.path["rollout_id"], body.worker_id)


async def list_attempts(exchange: Exchange) -> dict[str, Any]:
    """List the attempts of a rollout by a query string."""
    return await _attempts(exchange, exchange.parse_query(AttemptSearch))


async def search_attempts(exchange: Exchange) -> dict[str, Any]:
    """List the attempts of a rollout by a JSON query."""
    return await _attempts(exchange, exchange.parse_optional(AttemptSearch))


async def _attempts(exchange: Exchange, search: Search) -> dict[str, Any]:
    found = await exchange.store.query_attempts(exchange.path["rollout_id"], **search.checked())
    return page_body(found, search.limit, search.offset)


async def latest_attempt(exchange: Exchange) -> Attempt | None:
    """Return the attempt with the highest sequence id, or null."""
    return await exchange.store.get_latest_attempt(exchange.path["rollout_id"])


async def update_attempt(exchange: Exchange) -> Attempt:
    """Change the given fields of an attempt."""
    body = exchange.parse_optional(AttemptUpdate)
    reject_nulls(body, *AttemptUpdate.model_fields)
    return await exchange.store.update_attempt(
        exchange.path["rollout_id"],
        exchange.path["attempt_id"],
        **_given(body, AttemptUpdate),
    )


def _given(body: RolloutUpdate | AttemptUpdate, model: type[Any]) -> dict[str, Any]:
    return {n: getattr(body, n) for n in model.model_fields if n in body.model_fields_set}


async def finish_rollout(exchange: Exchange) -> Rollout:
    """Settle an attempt as succeeded."""
    body = exchange.parse_optional(FinishRequest)
    return await exchange.store.finish_rollout(
        exchange.path["rollout_id"],
        exchange.path.get("attempt_id") or body.attempt_id,
        reward=body.reward,
        output=body.output,
    )


async def fail_rollout(exchange: Exchange) -> Rollout:
    """Settle an attempt as failed."""
    body = exchange.parse_optional(FailRequest)
    return await exchange.store.fail_rollout(
        exchange.path["rollout_id"],
        exchange.path.get("attempt_id") or body.attempt_id,
        error=body.error,
    )


async def wait_rollouts(exchange: Exchange) -> Reply:
    """Wait until rollouts have ended; answer with those that have."""
    body = exchange.parse(WaitRequest)
    store, site = exchange.store, exchange.site
    seconds = min(MAX_WAIT_SECONDS if body.timeout is None else body.timeout, MAX_WAIT_SECONDS)
    deadline = monotonic() + seconds
    finished, ended = await first_of(
        store.wait_for_rollouts(rollout_ids=body.rollout_ids, timeout=seconds),
        exchange.gone(),
        site.closing.wait(),
    )
    if not ended:
        finished = await store.wait_for_rollouts(rollout_ids=body.rollout_ids, timeout=0)
    complete = len(finished) == len(set(body.rollout_ids)) or (ended and monotonic() < deadline)
    return Reply(encode(finished), headers={WAIT_COMPLETE_HEADER: "true" if complete else "false"})


_ROLLOUT: Final = "/rollouts/{rollout_id}"
_ATTEMPT: Final = "/rollouts/{rollout_id}/attempts/{attempt_id}"
_ANY_ROLLOUT: Final = AttemptedRollout | Rollout
_ROLLOUT_PAGE: Final = PaginatedResult[_ANY_ROLLOUT]

OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/queues/rollouts/dequeue",
        handler=dequeue,
        summary="Claim rollouts from the head of the queue",
        takes=DequeueRequest,
        returns=list[AttemptedRollout],
        replayable=True,
    ),
    Operation(
        method="POST",
        path="/queues/rollouts/enqueue",
        handler=enqueue,
        summary="Put rollouts into the queue",
        takes=EnqueueRequest,
        returns=list[Rollout],
        status=201,
        replayable=True,
    ),
    Operation(
        method="POST",
        path="/waits/rollouts",
        handler=wait_rollouts,
        summary="Wait until rollouts have ended",
        takes=WaitRequest,
        returns=list[Rollout],
    ),
    Operation(
        method="POST",
        path="/rollouts",
        handler=start_rollout,
        summary="Start a rollout past the queue",
        takes=StartRequest,
        returns=AttemptedRollout,
        status=201,
        replayable=True,
    ),
    Operation(
        method="GET",
        path="/rollouts",
        handler=list_rollouts,
        summary="List rollouts",
        takes=RolloutSearch,
        returns=_ROLLOUT_PAGE,
    ),
    Operation(
        method="POST",
        path="/rollouts/search",
        handler=search_rollouts,
        summary="List rollouts by a JSON query",
        takes=RolloutSearch,
        returns=_ROLLOUT_PAGE,
    ),
    Operation(
        method="GET",
        path=_ROLLOUT,
        handler=get_rollout,
        summary="Get one rollout with its latest attempt",
        returns=_ANY_ROLLOUT,
    ),
    Operation(
        method="POST",
        path=_ROLLOUT,
        handler=update_rollout,
        summary="Change fields of a rollout",
        takes=RolloutUpdate,
        returns=Rollout,
    ),
    Operation(
        method="POST",
        path=_ROLLOUT + "/attempts",
        handler=start_attempt,
        summary="Begin another attempt",
        takes=StartAttemptRequest,
        returns=AttemptedRollout,
        status=201,
        replayable=True,
    ),
    Operation(
        method="GET",
        path=_ROLLOUT + "/attempts",
        handler=list_attempts,
        summary="List the attempts of a rollout",
        takes=AttemptSearch,
        returns=PaginatedResult[Attempt],
    ),
    Operation(
        method="POST",
        path=_ROLLOUT + "/attempts/search",
        handler=search_attempts,
        summary="List the attempts of a rollout by a JSON query",
        takes=AttemptSearch,
        returns=PaginatedResult[Attempt],
    ),
    Operation(
        method="GET",
        path=_ROLLOUT + "/attempts/latest",
        handler=latest_attempt,
        summary="Get the latest attempt of a rollout",
        returns=Attempt | None,
    ),
    Operation(
        method="POST",
        path=_ATTEMPT,
        handler=update_attempt,
        summary="Change fields of an attempt",
        takes=AttemptUpdate,
        returns=Attempt,
    ),
    *(
        Operation(
            method="POST",
            path=path + suffix,
            handler=handler,
            summary=summary,
            takes=takes,
            returns=Rollout,
        )
        for path in (_ROLLOUT, _ATTEMPT, _ROLLOUT + "/attempt/{attempt_id}")
        for suffix, handler, takes, summary in (
            ("/finish", finish_rollout, FinishRequest, "Settle an attempt as succeeded"),
            ("/fail", fail_rollout, FailRequest, "Settle an attempt as failed"),
        )
    ),
    *(
        Operation(
            method="POST",
            path=_ROLLOUT + alias,
            handler=start_attempt,
            summary="Begin another attempt",
            takes=StartAttemptRequest,
            returns=AttemptedRollout,
            status=201,
            replayable=True,
        )
        for alias in ("/start", "/attempt")
    ),
)
