"""Following the stop signal of an execution from within an event loop."""

from __future__ import annotations

import asyncio

from agentlightning.types import ExecutionEvent

__all__ = ["until_set"]

EVENT_CHECK_SECONDS = 0.05
"""How often the signal is looked at; it may live in another thread or process."""


async def until_set(event: ExecutionEvent, check_seconds: float = EVENT_CHECK_SECONDS) -> None:
    """Return once the event is set, without blocking the loop or a thread."""
    while not event.is_set():  # noqa: ASYNC110 - the event is not of this loop.
        await asyncio.sleep(check_seconds)
