"""The algorithm in a worker process, with the store server it brings; for debugging runners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from agentlightning.execution.base import AlgorithmBundle
from agentlightning.store.base import LightningStore
from agentlightning.types.event import ExecutionEvent

__all__ = ["receive_store", "run_algorithm_worker"]

_CHECK_SECONDS = 0.05


async def run_algorithm_worker(
    serve: Callable[[LightningStore], Any],
    algorithm: AlgorithmBundle,
    own_store: LightningStore,
    writer: Connection,
    released: ExecutionEvent,
    store: LightningStore,
    worker_id: int,
    event: ExecutionEvent,
) -> None:
    """Serve the store, send a client of it through `writer`, and run the algorithm.

    The server stays until `released` is set, for the runner settles its last rollouts with it.
    With all but the last three arguments bound this is a runner bundle, so that the supervisor
    can watch the algorithm as it watches runners.
    """
    del store, worker_id  # A bundle takes them; this one brings a store of its own.
    async with serve(own_store) as (near, far):
        writer.send(far)
        try:
            await algorithm(near, event)
        finally:
            event.set()
            await asyncio.to_thread(released.wait)


async def receive_store(reader: Connection, ended: asyncio.Event) -> LightningStore | None:
    """Return the store that the algorithm's process serves; None when it ended instead."""
    while not reader.poll(0):
        if ended.is_set():
            return None
        await asyncio.sleep(_CHECK_SECONDS)
    return reader.recv()
