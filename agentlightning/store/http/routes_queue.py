"""Routes of the queue, and of waiting: for work, and for rollouts to end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from agentlightning._internal.clock import monotonic
from agentlightning.store.http.exchange import Exchange, Reply
from agentlightning.store.http.operation import Operation
from agentlightning.store.http.schemas import DequeueRequest, EnqueueRequest, WaitRequest
from agentlightning.store.http.site import first_of
from agentlightning.store.http.wire import encode
from agentlightning.types import AttemptedRollout, Rollout

__all__ = ["OPERATIONS", "WAIT_COMPLETE_HEADER"]

MAX_WAIT_SECONDS: Final = 30.0
"""Longest time one request may wait; clients ask again."""

DEQUEUE_SLICE_SECONDS: Final = 1.0
"""How often a claim that waits in a store of a user looks whether its client is still there."""

WAIT_COMPLETE_HEADER: Final = "x-agl-wait-complete"
"""`true` when waiting longer would bring nothing more."""


async def enqueue(exchange: Exchange) -> Sequence[Rollout]:
    """Put rollouts into the queue, in order."""
    requests = exchange.parse(EnqueueRequest).rollouts
    rollouts = await exchange.store.enqueue_many_rollouts(requests) if requests else []
    exchange.site.work_came()
    return rollouts


async def dequeue(exchange: Exchange) -> Sequence[AttemptedRollout]:
    """Claim work, waiting for it if asked to."""
    body = exchange.parse_optional(DequeueRequest)
    if body.limit <= 0:
        return []
    if body.wait_seconds == 0:
        return await exchange.site.claim(body, 0.0)
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
    site = exchange.site
    seconds = min(body.wait_seconds, MAX_WAIT_SECONDS)
    if site.undoes_claims:
        claims, ended = await first_of(site.claim(body, seconds), _end(gone), site.closing.wait())
        return claims if ended else []
    deadline = monotonic() + seconds
    while True:
        # Why: a claim must not be cancelled half-way, so the wait is cut into slices instead.
        remaining = deadline - monotonic()
        claims = await exchange.site.claim(body, max(0.0, min(remaining, DEQUEUE_SLICE_SECONDS)))
        if claims or remaining <= 0 or gone.done() or exchange.site.closing.is_set():
            return claims


async def _end(future: asyncio.Future[None]) -> None:
    """Wait for a future without cancelling it when cancelled."""
    await asyncio.shield(future)


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
)
