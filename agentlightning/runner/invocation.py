"""One call of users' code, in a task or in a thread, that can be awaited and abandoned."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from agentlightning.errors import AgentError

__all__ = ["Invocation", "invoke_async", "invoke_sync"]

logger = logging.getLogger(__name__)

_TASK_GRACE_SECONDS = 1.0
"""How long a cancelled coroutine may clean up."""

_THREAD_GRACE_SECONDS = 0.1


class Invocation:
    """A call that is under way."""

    def __init__(
        self, future: asyncio.Future[Any], interrupt: Callable[[], object], grace_seconds: float
    ) -> None:
        """Bind the call's future and the way to interrupt it."""
        self.future = future
        """The call's result or exception; await it."""
        self._interrupt = interrupt
        self._grace_seconds = grace_seconds

    async def abandon(self) -> None:
        """Interrupt the call, give it a moment to clean up, and wait no longer for it."""
        if self.future.done():
            return
        self._interrupt()
        await asyncio.wait({self.future}, timeout=self._grace_seconds)
        if not self.future.done():
            logger.warning("agent code does not stop; it is left behind")
            return
        if not self.future.cancelled():
            self.future.exception()


def invoke_async(coroutine: Coroutine[Any, Any, Any]) -> Invocation:
    """Run a coroutine as a task of this event loop, in a copy of the current context."""
    task = asyncio.create_task(_contained(coroutine))
    return Invocation(task, task.cancel, _TASK_GRACE_SECONDS)


async def _contained(coroutine: Coroutine[Any, Any, Any]) -> Any:
    # An event loop ends when a task raises SystemExit; one agent must not end its runner.
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise AgentError(f"The agent raised {error!r}.") from error


def invoke_sync(call: Callable[[], Any]) -> Invocation:
    """Run a blocking call in a daemon thread of its own, in a copy of the current context.

    Not in a pool: a call that never ends would keep its place in the pool, and keep the
    interpreter from exiting.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            try:
                result, error = context.run(call), None
            except BaseException as raised:  # noqa: BLE001 - boundary: top of the agent's thread.
                result, error = None, raised
            _deliver(loop, future, result, error)
        except asyncio.CancelledError:
            # The interruption came when the agent had just returned; nobody waits any more.
            logger.debug("agent code ended while it was being interrupted")

    thread = threading.Thread(target=work, name="agl-agent", daemon=True)
    thread.start()
    return Invocation(future, lambda: _interrupt_thread(thread), _THREAD_GRACE_SECONDS)


def _deliver(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Any],
    result: Any,
    error: BaseException | None,
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            future.set_exception(error)
        else:
            wrapped = AgentError(f"The agent raised {error!r}.")
            wrapped.__cause__ = error
            future.set_exception(wrapped)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        logger.warning("agent code ended after its runner; its result is lost")


def _interrupt_thread(thread: threading.Thread) -> None:
    """Raise `CancelledError` in a thread at its next Python instruction, if it gets there."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(asyncio.CancelledError)
        )
