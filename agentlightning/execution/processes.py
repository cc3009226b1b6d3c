"""Processes of our own: groups that die together, children that do not outlive their parent."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Any

from agentlightning.errors import ConfigurationError

__all__ = [
    "adopt_process",
    "choose_context",
    "kill_group",
    "start_process",
]

_PR_SET_PDEATHSIG = 1
"""From `linux/prctl.h`."""


def choose_context(start_method: str | None = None) -> BaseContext:
    """Return the multiprocessing context to start workers with.

    Args:
        start_method: `fork`, `spawn` or `forkserver`. None forks where that is safe (Linux, no
            other thread, no CUDA context), for forked workers need not pickle anything; else it
            spawns.

    Raises:
        ConfigurationError: The platform has no such start method.
    """
    if start_method is None:
        start_method = "fork" if _fork_is_safe() else "spawn"
    try:
        return multiprocessing.get_context(start_method)
    except ValueError as error:
        known = ", ".join(multiprocessing.get_all_start_methods())
        raise ConfigurationError(
            f"There is no start method {start_method!r} here; use one of {known}."
        ) from error


def _fork_is_safe() -> bool:
    if not sys.platform.startswith("linux") or threading.active_count() > 1:
        return False
    torch = sys.modules.get("torch")
    return torch is None or not torch.cuda.is_initialized()


def start_process(
    context: BaseContext, target: Callable[..., None], args: tuple[Any, ...], name: str
) -> Any:
    """Start a process and return it.

    Python's warning about forking beside native threads is silenced: `choose_context` has made
    sure that no Python thread runs, and the threads of numeric libraries sleep in pools that
    these libraries rebuild in a child.
    """
    kinds: Any = context  # The type stubs have `Process` on the subclasses only.
    process = kinds.Process(target=target, args=args, name=name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        process.start()
    return process


def adopt_process(parent_pid: int, death_signal: int = signal.SIGTERM) -> None:
    """Make this fresh child a group of its own that does not outlive its parent.

    The group keeps a Ctrl-C of the terminal away, which is for the main process to answer, and
    lets everything that agents start be killed together with their worker.

    Args:
        parent_pid: Expected parent; another one means that it is dead already.
        death_signal: What this process gets when its parent ends, however it ends; other
            platforms than Linux kill the group instead.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if not sys.platform.startswith("linux"):
        threading.Thread(target=_follow_parent, name="agl-parent", daemon=True).start()
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), death_signal)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        kill_group(os.getpid())


def kill_group(pid: int) -> None:
    """Kill the group that a process leads; harmless when nobody of it is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)
