"""The main process's hold on its workers, through the supervisor process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from agentlightning.errors import ConfigurationError, ExecutionError
from agentlightning.execution.processes import start_process
from agentlightning.execution.supervisor import FleetPlan, supervise
from agentlightning.store.base import LightningStore

__all__ = ["Fleet"]

logger = logging.getLogger(__name__)

_KILL_SECONDS = 5.0


class Fleet:
    """Worker processes under one supervisor. `start`, `launch`, `stop`, each once.

    `stop` and `kill` may be called at any time, from any thread, and again.
    """

    def __init__(self, context: BaseContext, plan: FleetPlan) -> None:
        """Bind the plan; nothing runs yet.

        Args:
            context: Where the supervisor process comes from.
            plan: What it does.
        """
        self.failure: ExecutionError | None = None
        """Why the fleet ended, if it was not asked to."""
        self._context = context
        self._plan = plan
        self._on_end: Callable[[], None] | None = None
        self._process: Any = None
        self._control: Connection | None = None
        self._listener: threading.Thread | None = None
        self._stop_sent = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the supervisor; to be called before this process has threads.

        Raises:
            ConfigurationError: The bundle cannot be sent to a spawned process.
        """
        control, supervisor_end = self._context.Pipe()
        forked = self._context.get_start_method() == "fork"
        try:
            process = start_process(
                self._context,
                supervise,
                (self._plan, supervisor_end, control if forked else None),
                "agl-supervisor",
            )
        except (AttributeError, TypeError, ValueError, OSError) as error:
            control.close()
            raise ConfigurationError(
                "The runner cannot be sent to a new process, because something in it does not "
                f"pickle: {error}. Define agents, hooks and functions at the top level of a "
                "module, or use start_method='fork' or the 'shm' strategy."
            ) from error
        finally:
            supervisor_end.close()
        self._process, self._control = process, control
        self._listener = threading.Thread(target=self._listen, name="agl-fleet", daemon=True)
        self._listener.start()

    def launch(
        self, store: LightningStore, *, close_store: bool, on_end: Callable[[], None]
    ) -> None:
        """Start the workers.

        Args:
            store: What they work with; it reaches them pickled.
            close_store: Each worker closes its copy at the end.
            on_end: Called from another thread, maybe twice, when the fleet has failed or every
                worker has ended by itself.

        Raises:
            ExecutionError: The supervisor died.
        """
        self._on_end = on_end
        if self.failure is not None:
            raise self.failure
        self._send(("launch", store, close_store))

    def stop(self) -> None:
        """Ask the workers to end, with growing force, and wait until all of them have.

        Their claims are given back by themselves, so the store must be reachable until then.
        """
        with self._lock:
            if not self._stop_sent:
                self._stop_sent = True
                self._send(("stop",))
        if self._listener is not None:
            self._listener.join()
        if self._process is not None:
            self._process.join()

    def kill(self) -> None:
        """Kill the workers now; `stop` still has to be called."""
        if self._process is not None and self._process.is_alive():
            self._process.terminate()
            self._process.join(_KILL_SECONDS)
            # Its workers die with it, also then.
            self._process.kill()

    def _send(self, message: tuple[Any, ...]) -> None:
        assert self._control is not None, "started before"
        try:
            self._control.send(message)
        except (BrokenPipeError, OSError):
            # The listener sees the same end and says why.
            logger.debug("supervisor is gone already")

    def _listen(self) -> None:
        assert self._control is not None, "started before"
        while True:
            try:
                message = self._control.recv()
            except (EOFError, OSError):
                self._fail(
                    f"The supervisor of the workers (process {self._process.pid}) died, and the "
                    "workers with it."
                )
                return
            if message[0] == "done":
                return
            if message[0] == "failed":
                self._fail(message[1])
            else:
                self._ended()

    def _fail(self, text: str) -> None:
        if self.failure is None:
            self.failure = ExecutionError(text)
            self._ended()

    def _ended(self) -> None:
        if self._on_end is not None:
            self._on_end()
