"""Keeping a claim alive, noticing when it is lost, and giving back what a dead worker held."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from agentlightning._internal.clock import now
from agentlightning.errors import InvalidTransitionError, StoreError
from agentlightning.runner.outcome import StopCause, stop_cause
from agentlightning.types import Attempt, AttemptedRollout, StoreEvent

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = [
    "ClaimWatch",
    "LeaseKeeper",
    "Stoppable",
    "keep_lease",
    "release_rollouts",
    "return_rollout",
]

logger = logging.getLogger(__name__)

_RECONNECT_SECONDS = 1.0
_LOST_WORKERS_ALLOWED = 2
"""How many attempts beyond `max_attempts` a rollout gets because its workers died."""


@contextlib.asynccontextmanager
async def keep_lease(store: LightningStore, rollout: AttemptedRollout) -> AsyncGenerator[None]:
    """Renew the attempt's lease during the block, every third of `unresponsive_seconds`."""
    silence = rollout.config.unresponsive_seconds
    if not silence:
        yield
        return
    task = asyncio.create_task(_renew(store, rollout, silence / 3))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _renew(store: LightningStore, rollout: AttemptedRollout, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await store.update_attempt(
                rollout.rollout_id, rollout.attempt.attempt_id, last_heartbeat_time=now()
            )
        except StoreError as error:
            logger.warning(
                "lease could not be renewed",
                extra={"rollout_id": rollout.rollout_id},
                exc_info=error,
            )


class Stoppable(Protocol):
    """A running attempt that can be told to stop."""

    attempt_id: str
    lease_seconds: float | None
    """As claimed; None needs no renewal."""
    is_settling: bool
    """Its agent has ended, so there is nothing left to stop."""

    def stop(self, cause: StopCause) -> None:
        """Stop the agent; the attempt then settles itself."""
        ...


class LeaseKeeper:
    """Renews the leases of all attempts of one worker, from a thread that nothing blocks.

    Made in the event loop in which the attempts run.
    """

    def __init__(self, store: LightningStore, held: Mapping[str, Stoppable]) -> None:
        """Keep the attempts in `held`, which maps rollout ids and may change any time."""
        self._store = store
        self._held = held
        self._home = asyncio.get_running_loop()

    async def renew(self) -> None:
        """Renew every lease once, and stop the attempts that turn out to be lost."""
        leased = [item for item in list(self._held.items()) if item[1].lease_seconds is not None]
        # All at once: behind a store that is slow with one, the others would run out.
        await asyncio.gather(*(self._renew(rollout_id, running) for rollout_id, running in leased))

    async def _renew(self, rollout_id: str, running: Stoppable) -> None:
        try:
            attempt = await self._store.update_attempt(
                rollout_id, running.attempt_id, last_heartbeat_time=now()
            )
        except (StoreError, OSError, TimeoutError) as error:
            logger.warning(
                "lease could not be renewed", extra={"rollout_id": rollout_id}, exc_info=error
            )
            return
        if attempt.end_time is not None and not running.is_settling:
            self._home.call_soon_threadsafe(running.stop, _why(attempt))


def _why(attempt: Attempt) -> StopCause:
    """Return why a worker's attempt ended without its doing."""
    if attempt.status == "timeout":
        return "timeout"
    outcome = (attempt.metadata or {}).get("outcome")
    lost = attempt.status == "unresponsive" or outcome == "interrupted"
    return "lost" if lost else "cancelled"


def _may_be_lost(event: StoreEvent, running: Stoppable) -> bool:
    """Return whether what happened to its rollout may have cost a worker its attempt."""
    if event.kind == "attempt_started":
        return event.attempt_id != running.attempt_id
    return event.status not in {"preparing", "running"}


class ClaimWatch:
    """Stops attempts whose rollouts were cancelled, ended or taken over by somebody else."""

    def __init__(
        self, store: LightningStore, active: Mapping[str, Stoppable], *, poll_seconds: float
    ) -> None:
        """Watch the attempts in `active`, which maps rollout ids and may change any time.

        Args:
            store: Told by its events; polled where it has none.
            active: The attempts under way.
            poll_seconds: How often to look where the store cannot tell.
        """
        self._store = store
        self._active = active
        self._poll_seconds = poll_seconds

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self._follow_events()
            except NotImplementedError:
                break
            except (StoreError, OSError) as error:
                logger.warning("event stream broke off; it is taken up again", exc_info=error)
            await asyncio.sleep(_RECONNECT_SECONDS)
            await self._check_all()
        while True:
            await asyncio.sleep(self._poll_seconds)
            await self._check_all()

    async def _follow_events(self) -> None:
        # An attempt that was overtaken is heard of by its successor's start: its own end is told as
        # `attempt_updated`, as is every renewal of every worker's lease.
        async for event in self._store.subscribe(kinds=["rollout_updated", "attempt_started"]):
            rollout_id = event.rollout_id or ""
            running = self._active.get(rollout_id)
            if running is not None and _may_be_lost(event, running):
                await self._check(rollout_id)

    async def _check_all(self) -> None:
        for rollout_id in list(self._active):
            await self._check(rollout_id)

    async def _check(self, rollout_id: str) -> None:
        # An event may be older than the attempt we run now, so the record decides; and about the
        # attempt that ran when it was asked for, since this worker may have claimed the rollout
        # again before the answer came.
        running = self._active.get(rollout_id)
        if running is None or running.is_settling:
            return
        try:
            rollout = await self._store.get_rollout_by_id(rollout_id)
        except (StoreError, OSError) as error:
            logger.warning(
                "rollout could not be checked", extra={"rollout_id": rollout_id}, exc_info=error
            )
            return
        cause = stop_cause(rollout, running.attempt_id)
        if cause is not None:
            running.stop(cause)


async def return_rollout(
    store: LightningStore, rollout: AttemptedRollout, metadata: Mapping[str, Any]
) -> None:
    """Put a rollout back into the queue and record how its attempt ended.

    Args:
        store: Where the rollout is.
        rollout: The rollout with the attempt that did not finish.
        metadata: What to keep on that attempt.
    """
    # Queue first: a failed attempt could end the rollout, and an ended one never moves again.
    with contextlib.suppress(InvalidTransitionError):  # Somebody ended the rollout meanwhile.
        await store.update_rollout(rollout.rollout_id, status="requeuing")
    await store.update_attempt(
        rollout.rollout_id,
        rollout.attempt.attempt_id,
        status="failed",
        metadata={**(rollout.attempt.metadata or {}), **metadata},
    )


async def release_rollouts(
    store: LightningStore, worker_id: str, *, since: float, keep: Collection[str] = ()
) -> int:
    """Give back every rollout that a worker claimed and will not finish.

    A rollout that has already lost several workers is failed instead: it may be what kills them.

    Args:
        store: Where the rollouts are.
        worker_id: The worker's id in the store.
        since: Unix seconds; only attempts that began at or after this moment.
        keep: Ids of rollouts that are being worked on.

    Returns:
        How many rollouts were given back or failed.
    """
    running = await store.query_rollouts(status_in=["preparing", "running"])
    held = [
        rollout
        for rollout in running
        if isinstance(rollout, AttemptedRollout)
        and rollout.attempt.worker_id == worker_id
        and rollout.attempt.start_time >= since
        and rollout.rollout_id not in keep
    ]
    for rollout in held:
        try:
            await _release(store, rollout)
        except StoreError as error:
            logger.warning(
                "rollout could not be given back",
                extra={"rollout_id": rollout.rollout_id},
                exc_info=error,
            )
    return len(held)


async def _release(store: LightningStore, rollout: AttemptedRollout) -> None:
    attempt = rollout.attempt
    metadata = {
        "outcome": "interrupted",
        "error": {
            "type": "HarnessError",
            "message": f"{attempt.worker_id} ended before it finished this attempt.",
            "traceback": "",
        },
    }
    if attempt.sequence_id < rollout.config.max_attempts + _LOST_WORKERS_ALLOWED:
        await return_rollout(store, rollout, metadata)
        return
    metadata["outcome"] = "harness_error"
    await store.update_attempt(
        rollout.rollout_id,
        attempt.attempt_id,
        status="failed",
        metadata={**(attempt.metadata or {}), **metadata},
    )
