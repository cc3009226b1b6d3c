"""Which steps of one event loop are committed together: those that are ready in one iteration.

The first step of an iteration runs at once. What other tasks ask for in the same iteration is
gathered and run as one transaction when the iteration is over. A task that goes on alone goes on
at once, but not for ever: after some steps the others have their turn.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final

from agentlightning.store.collections.sql.job import Job

_AT_ONCE: Final = 16
"""Steps that one task may run without letting the event loop go on."""


class Lane:
    """The steps of one event loop; used by its thread only.

    Args:
        loop: The loop.
        run: Runs several steps and finishes each.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, run: Callable[[list[Job[Any]]], None]
    ) -> None:
        self.loop = loop
        self._run = run
        self._task: asyncio.Task[Any] | None = None
        self._left = 0
        self._gathered: list[Job[Any]] = []
        self._open = False

    def may_go_on(self) -> bool:
        """Return whether a step of the current task may run at once."""
        task = asyncio.current_task(self.loop)
        if not self._open:
            self._open = True
            self._task = task
            self._left = _AT_ONCE
            self.loop.call_soon(self._end)
            return True
        self._left -= 1
        return task is self._task and self._left > 0 and not self._gathered

    def gather(self, job: Job[Any]) -> None:
        """Run a step when the iteration is over; `may_go_on` has been asked."""
        self._gathered.append(job)

    def _end(self) -> None:
        jobs, self._gathered = self._gathered, []
        self._open = False
        self._task = None
        if jobs:
            self._run(jobs)


class Lanes(threading.local):
    """The lane of each thread's event loop."""

    lane: Lane | None = None
