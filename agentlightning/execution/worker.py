"""What runs inside a worker process: one runner bundle, and a word about how it ended."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

from agentlightning.errors import StoreError
from agentlightning.execution.base import RunnerBundle
from agentlightning.execution.events import MultiprocessingEvent
from agentlightning.execution.processes import adopt_process
from agentlightning.runner.base import worker_name
from agentlightning.runner.lease import release_rollouts
from agentlightning.store.base import LightningStore

__all__ = ["WorkerTask", "run_worker"]

logger = logging.getLogger(__name__)

_ERROR_CHARACTERS = 8_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """One life of one worker; pickles where its parts do."""

    bundle: RunnerBundle
    store: LightningStore
    close_store: bool
    """The store object belongs to this process."""
    worker_id: int
    event: MultiprocessingEvent
    parent_pid: int
    release_since: float | None
    """Give back what an earlier life of this worker claimed since this time (unix seconds)."""


def run_worker(task: WorkerTask, report: Connection) -> None:
    """Run a worker to its end; the target of its process.

    The process exits with 0 after the stop signal or an interruption, and with 1 after an error,
    which is sent through `report` first.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    adopt_process(task.parent_pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    try:
        asyncio.run(_work(task))
    except KeyboardInterrupt:
        logger.info("worker was interrupted", extra={"worker_number": task.worker_id})
    except BaseException as error:
        logger.exception("worker failed", extra={"worker_number": task.worker_id})
        report.send("".join(traceback.format_exception(error))[-_ERROR_CHARACTERS:])
        sys.exit(1)


async def _work(task: WorkerTask) -> None:
    try:
        if task.release_since is not None:
            await _release(task, task.release_since)
        await task.bundle(task.store, task.worker_id, task.event)
    finally:
        if task.close_store:
            await task.store.close()


async def _release(task: WorkerTask, since: float) -> None:
    try:
        number = await release_rollouts(task.store, worker_name(task.worker_id), since=since)
    except StoreError as error:
        logger.warning("claims of a dead worker could not be given back", exc_info=error)
    else:
        logger.info("claims of a dead worker are given back", extra={"rollouts": number})
