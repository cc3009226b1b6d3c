"""Ctrl-C while something long runs: once asks for an orderly end, twice ends at once."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["InterruptGuard"]

logger = logging.getLogger(__name__)


class InterruptGuard:
    """Handles SIGINT and SIGTERM for a block; does nothing outside the main thread.

    Handlers that the program installed itself are left alone.
    """

    def __init__(
        self,
        *,
        on_first: Callable[[], None],
        on_second: Callable[[], None],
        patience_seconds: float,
    ) -> None:
        """Set what happens when.

        Args:
            on_first: Called at the first signal; asks for an orderly end and returns at once.
            on_second: Called at the second one; kills. `KeyboardInterrupt` is raised after it.
            patience_seconds: How long an `impatient` block may go on after the first signal.
        """
        self._on_first = on_first
        self._on_second = on_second
        self._patience_seconds = patience_seconds
        self._previous: dict[int, Any] = {}
        self._signal: int | None = None
        self._timer: threading.Timer | None = None
        self._out_of_patience = False
        self._impatient = False
        self.immediate = False
        """Whether a second signal has come."""

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
            for number, default in defaults.items():
                if signal.getsignal(number) is default:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @property
    def interrupted(self) -> bool:
        """Return whether a signal has come."""
        return self._signal is not None

    def raise_if_interrupted(self) -> None:
        """Raise what the signal would have raised.

        Raises:
            KeyboardInterrupt: SIGINT came.
            SystemExit: SIGTERM came; the exit code is the one a shell shows for it.
        """
        if self._signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        if self._signal is not None:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def impatient(self) -> Generator[None]:
        """Raise `KeyboardInterrupt` in the block when it does not end soon after a signal.

        Code that never gives way to its event loop cannot be cancelled otherwise.
        """
        self._impatient = True
        try:
            yield
        finally:
            self._impatient = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._out_of_patience:
            self._out_of_patience = False
            if self._impatient:
                raise KeyboardInterrupt
            return
        if self._signal is None:
            self._signal = number
            logger.warning("stopping; interrupt again to stop at once")
            self._on_first()
            self._timer = threading.Timer(self._patience_seconds, self._lose_patience)
            self._timer.daemon = True
            self._timer.start()
            return
        self.immediate = True
        self._on_second()
        raise KeyboardInterrupt

    def _lose_patience(self) -> None:
        if self._impatient:
            self._out_of_patience = True
            if hasattr(signal, "pthread_kill"):
                # To the main thread itself, so that a blocking system call there is broken off.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            else:
                signal.raise_signal(signal.SIGINT)
