"""Thread pools that carry context: what is submitted inside a rollout belongs to the rollout.

Only `ThreadPoolExecutor.submit` is instrumented, which event loops use for `run_in_executor` too.
Threads themselves are not: a pool's thread outlives the rollout in which it was started, and would
take the work of later rollouts for its own.
"""

import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["instrument_threads", "uninstrument_threads"]

_lock = threading.Lock()
_users = 0
_submit = ThreadPoolExecutor.submit


def instrument_threads() -> None:
    """Run what is submitted to thread pools in a copy of the submitter's context.

    It may be called several times, and lasts until `uninstrument_threads` was called as often.
    """
    global _users  # noqa: PLW0603 - the patched class is one per process, so is the count.
    with _lock:
        _users += 1
        if _users == 1:
            ThreadPoolExecutor.submit = _submit_in_context


def uninstrument_threads() -> None:
    """Undo one `instrument_threads`; harmless when there was none."""
    global _users  # noqa: PLW0603 - the patched class is one per process, so is the count.
    with _lock:
        if _users == 0:
            return
        _users -= 1
        # Another library may have wrapped `submit` since; then ours stays below it.
        if _users == 0 and ThreadPoolExecutor.submit is _submit_in_context:
            ThreadPoolExecutor.submit = _submit


@functools.wraps(_submit)
def _submit_in_context(
    self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    return _submit(self, contextvars.copy_context().run, fn, *args, **kwargs)
