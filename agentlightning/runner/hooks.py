"""Calling hooks around a rollout, so that a broken hook is recorded and harms nothing."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Sequence
from typing import Any, Literal

from agentlightning.runner.signature import fitting_arguments
from agentlightning.types import Hook

__all__ = ["HookCalls"]

logger = logging.getLogger(__name__)

HookMethod = Literal["on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"]

HOOK_SECONDS = 60.0
"""Longest run of one hook; a hook that hangs would hold its rollout for ever."""


class HookCalls:
    """Calls the hooks of one rollout, in order, and keeps what went wrong."""

    def __init__(self, hooks: Sequence[Hook], **arguments: Any) -> None:
        """Bind the hooks and the arguments that every call offers."""
        self._hooks = hooks
        self._arguments = arguments
        self.errors: list[dict[str, str]] = []
        """One record per failed call: `hook`, `method`, `type`, `message`."""

    async def call(self, method: HookMethod, **more: Any) -> None:
        """Call one method of every hook with the arguments it declares; never raises."""
        for hook in self._hooks:
            try:
                await self._call_one(getattr(hook, method), more)
            except Exception as error:  # noqa: BLE001 - boundary: the user's hook, recorded.
                self._record(hook, method, error)

    async def _call_one(self, func: Any, more: dict[str, Any]) -> None:
        # Not wait_for: context variables that a hook sets must reach the agent.
        async with asyncio.timeout(HOOK_SECONDS):
            result = func(**fitting_arguments(func, {**self._arguments, **more}))
            if inspect.isawaitable(result):
                await result

    def _record(self, hook: Hook, method: str, error: Exception) -> None:
        name = type(hook).__name__
        logger.warning(
            "hook failed; the rollout goes on",
            extra={"hook": name, "hook_method": method},
            exc_info=error,
        )
        self.errors.append(
            {"hook": name, "method": method, "type": type(error).__name__, "message": str(error)}
        )
