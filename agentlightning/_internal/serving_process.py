"""Serving an ASGI application from child processes that share one listening socket.

A child stops when its parent asks it to, and also when the parent is gone.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import pickle
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Literal

from agentlightning._internal.clock import monotonic
from agentlightning._internal.serving import ServeOptions, loop_factory, make_server

if TYPE_CHECKING:
    import uvicorn

__all__ = ["ChildEvent", "ServerProcesses"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """What a serving child tells its parent once, at its start."""

    kind: Literal["ready", "error"]
    message: str | None = None


def _is_factory(app: Any) -> bool:
    return bool(getattr(app, "is_app_factory", False))


def _start_method(app: Any) -> str:
    """Return `spawn` when the application can travel, else `fork` where that exists."""
    try:
        pickle.dumps(app)
    except (pickle.PicklingError, TypeError, AttributeError):
        if "fork" in multiprocessing.get_all_start_methods():
            return "fork"
        raise
    return "spawn"


def _serve_child(
    app: Any, listener: socket.socket, options: ServeOptions, channel: Connection
) -> None:
    """Run one child: build the application, serve, and report the start through `channel`."""
    try:
        target = app() if _is_factory(app) else app
        closing: Callable[[], None] | None = getattr(target, "before_shutdown", None)
        server = make_server(
            target,
            options,
            on_started=lambda: channel.send(ChildEvent("ready")),
            before_shutdown=closing,
        )
        _watch_parent(server, channel)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(server.serve(sockets=[listener]))
    except (Exception, SystemExit) as error:
        logger.exception("serving process failed")
        channel.send(ChildEvent("error", f"{type(error).__name__}: {error}"))
    except KeyboardInterrupt:
        logger.info("serving process interrupted")


def _watch_parent(server: uvicorn.Server, channel: Connection) -> None:
    """Stop the server when the parent says so, or when it is gone."""

    def watch() -> None:
        try:
            channel.recv()
        except EOFError:
            logger.info("parent process is gone, stopping")
        server.should_exit = True

    threading.Thread(target=watch, name="agl-parent-watch", daemon=True).start()


class ServerProcesses:
    """One or more child processes that serve one application on one socket.

    The application (or a zero-argument factory with `is_app_factory = True`) is sent to spawned
    processes if it can be pickled, and inherited by forked ones otherwise.
    """

    def __init__(self, app: Any, listener: socket.socket, options: ServeOptions) -> None:
        self._app = app
        self._listener = listener
        self._options = options
        self._children: list[tuple[BaseProcess, Connection]] = []

    def is_running(self) -> bool:
        """Return whether every child is alive."""
        return bool(self._children) and all(child.is_alive() for child, _ in self._children)

    def start(self, n_workers: int, timeout: float) -> None:
        """Start the children and return once all of them accept connections.

        Raises:
            RuntimeError: A child failed or did not report within `timeout` seconds; then none
                is left.
        """
        context = multiprocessing.get_context(_start_method(self._app))
        # Why: the parent's copy must listen too, or clients are refused while a child restarts.
        self._listener.listen(2048)
        for index in range(n_workers):
            ours, theirs = context.Pipe()
            child = context.Process(  # pyright: ignore[reportAttributeAccessIssue]  # every context has Process
                target=_serve_child,
                args=(self._app, self._listener, self._options, theirs),
                name=f"agl-server-{index}",
                daemon=True,
            )
            child.start()
            theirs.close()
            self._children.append((child, ours))
        deadline = monotonic() + timeout
        for child, channel in self._children:
            failure = _await_ready(child, channel, deadline)
            if failure is not None:
                self.stop(1.0)
                raise RuntimeError(f"The server process failed to start: {failure}")

    def stop(self, timeout: float) -> None:
        """Ask the children to finish, then terminate those that have not after `timeout`."""
        for _, channel in self._children:
            try:
                channel.send("stop")
            except OSError:
                logger.debug("serving process had already ended")
        deadline = monotonic() + timeout
        for child, channel in self._children:
            child.join(max(0.0, deadline - monotonic()))
            for end in (child.terminate, child.kill):
                if child.is_alive():
                    logger.warning("serving process did not stop in time", extra={"pid": child.pid})
                    end()
                    child.join(1.0)
            channel.close()
            child.close()
        self._children.clear()
        self._listener.close()


def _await_ready(child: BaseProcess, channel: Connection, deadline: float) -> str | None:
    """Return None once the child is ready, else what went wrong."""
    while monotonic() < deadline:
        if channel.poll(0.05):
            try:
                event = channel.recv()
            except EOFError:
                return "it ended without a word"
            return None if event.kind == "ready" else str(event.message)
        if not child.is_alive():
            return f"it ended with exit code {child.exitcode}"
        time.sleep(0)
    return "it did not report in time"
