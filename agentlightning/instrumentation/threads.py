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

Submit = Callable[..., Future[Any]]


class _Patch:
    """The patched method; there is one class of pools per process, so there is one of these."""

    lock = threading.Lock()
    users = 0
    original: Submit = ThreadPoolExecutor.submit
    ours: Submit | None = None


def instrument_threads() -> None:
    """Run what is submitted to thread pools in a copy of the submitter's context.

    It may be called several times, and lasts until `uninstrument_threads` was called as often.
    """
    with _Patch.lock:
        _Patch.users += 1
        if _Patch.users == 1:
            _Patch.original = ThreadPoolExecutor.submit
            _Patch.ours = _carrying_context(_Patch.original)
            ThreadPoolExecutor.submit = _Patch.ours


def uninstrument_threads() -> None:
    """Undo one `instrument_threads`; harmless when there was none."""
    with _Patch.lock:
        if _Patch.users == 0:
            return
        _Patch.users -= 1
        # Another library may have wrapped `submit` since; then ours stays below it.
        if _Patch.users == 0 and ThreadPoolExecutor.submit is _Patch.ours:
            ThreadPoolExecutor.submit = _Patch.original


def _carrying_context(submit: Submit) -> Submit:
    @functools.wraps(submit)
    def submit_in_context(
        self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        return submit(self, contextvars.copy_context().run, fn, *args, **kwargs)

    return submit_in_context
