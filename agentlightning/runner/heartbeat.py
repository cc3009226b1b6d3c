"""The heartbeat of a worker: it tells the store, at intervals, that and how it lives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentlightning.runner.lease import LeaseKeeper, Stoppable

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["Heartbeat", "HeartbeatMode"]

logger = logging.getLogger(__name__)

HeartbeatMode = Literal["thread", "asyncio"]

_JOIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """How a worker reports itself."""

    interval_seconds: float
    """0 or less turns the heartbeat off."""
    jitter_seconds: float = 0.5
    """Each wait is longer or shorter by up to this, so that a fleet does not beat in step."""
    mode: HeartbeatMode = "thread"
    """In a thread of its own, which also beats while agent code blocks the event loop; used only
    with stores that several threads may call. Else in the runner's loop."""
    include_gpu: bool = False

    def lease_seconds(self, store: LightningStore, wanted: float | None) -> float | None:
        """Return the lease that this heartbeat can keep up, at least three intervals.

        None without a thread of its own, since agent code that blocks the event loop would lose
        its lease; a store without threads dies with its worker anyway.
        """
        if wanted is None or not self._has_thread(store):
            return None
        return max(wanted, 3 * (self.interval_seconds + self.jitter_seconds))

    def _has_thread(self, store: LightningStore) -> bool:
        is_wanted = self.interval_seconds > 0 and self.mode == "thread"
        return is_wanted and store.capabilities.get("thread_safe", False)

    @contextlib.asynccontextmanager
    async def beating(
        self,
        store: LightningStore,
        worker_id: str,
        held: Mapping[str, Stoppable] | None = None,
    ) -> AsyncGenerator[None]:
        """Beat during the block, the first time at once.

        Args:
            store: Where the worker is.
            worker_id: The worker's id.
            held: Attempts under way by rollout id, whose leases each beat renews; may change
                any time.
        """
        if self.interval_seconds <= 0:
            yield
        elif self._has_thread(store):
            # An empty mapping must stay the caller's own: it fills with the first claim.
            kept = {} if held is None else held
            async with self._in_thread(store, worker_id, kept):
                yield
        else:
            task = asyncio.create_task(self._beat_for_ever(store, worker_id))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait({task})

    @contextlib.asynccontextmanager
    async def _in_thread(
        self, store: LightningStore, worker_id: str, held: Mapping[str, Stoppable]
    ) -> AsyncGenerator[None]:
        keeper = LeaseKeeper(store, held)
        stopped = threading.Event()
        thread = threading.Thread(
            target=self._thread_main,
            args=(store, worker_id, keeper, stopped),
            name="agl-heartbeat",
            daemon=True,
        )
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            await asyncio.to_thread(thread.join, _JOIN_SECONDS)

    def _thread_main(
        self,
        store: LightningStore,
        worker_id: str,
        keeper: LeaseKeeper,
        stopped: threading.Event,
    ) -> None:
        async def main() -> None:
            while not stopped.is_set():
                await self._beat(store, worker_id, keeper)
                await asyncio.to_thread(stopped.wait, self._pause())

        asyncio.run(main())

    async def _beat_for_ever(self, store: LightningStore, worker_id: str) -> None:
        while True:
            await self._beat(store, worker_id)
            await asyncio.sleep(self._pause())

    async def _beat(
        self, store: LightningStore, worker_id: str, keeper: LeaseKeeper | None = None
    ) -> None:
        from agentlightning.runner.snapshot import system_snapshot

        try:
            if keeper is not None:
                await keeper.renew()
            snapshot = await asyncio.to_thread(system_snapshot, self.include_gpu)
            await store.update_worker(worker_id, snapshot)
        except Exception as error:  # Boundary: a heart that stops loses all claims.
            logger.warning("heartbeat failed", extra={"worker_id": worker_id}, exc_info=error)

    def _pause(self) -> float:
        jitter = random.uniform(-self.jitter_seconds, self.jitter_seconds)
        return max(0.0, self.interval_seconds + jitter)
