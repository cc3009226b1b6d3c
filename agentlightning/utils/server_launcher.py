"""Starting and stopping an ASGI server in a task, a thread or child processes.

The launcher owns the listening socket, so the port is known before anything is served. It does
not know what it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agentlightning._internal.clock import monotonic
from agentlightning._internal.serving import (
    ANY_HOSTS,
    LOOPBACK_HOST,
    ServeOptions,
    ServerThread,
    bind_socket,
    format_address,
    make_server,
    outbound_address,
)
from agentlightning._internal.serving_process import ChildEvent, ServerProcesses
from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    import uvicorn

__all__ = [
    "ChildEvent",
    "LaunchMode",
    "PythonServerLauncher",
    "PythonServerLauncherArgs",
    "noop_context",
]

logger = logging.getLogger(__name__)

LaunchMode = Literal["asyncio", "thread", "mp"]
"""Where the server runs: a task of this loop, a thread with its own loop, or processes."""


@dataclass(kw_only=True)
class PythonServerLauncherArgs:
    """Where and how to serve; all times in seconds."""

    port: int | None = None
    """None and 0 let the system choose a free port."""
    host: str | None = None
    """Address to bind; None is loopback (0.3.0 bound every interface)."""
    access_host: str | None = None
    """Host in `access_endpoint`; None is the outbound IPv4 address when every interface is
    bound, else `host`."""
    launch_mode: LaunchMode = "asyncio"
    n_workers: int = 1
    """Serving processes; more than one needs launch mode `mp`."""
    healthcheck_url: str | None = None
    """Path (or URL) that must answer 200 before `start` returns."""
    log_level: int = logging.INFO
    access_log: bool = False
    startup_timeout: float = 60.0
    kill_unhealthy_server: bool = True
    """Stop the server when the health check fails at the start."""
    thread_join_timeout: float = 10.0
    process_join_timeout: float = 10.0
    timeout_keep_alive: int = 30

    def __post_init__(self) -> None:
        if self.launch_mode not in ("asyncio", "thread", "mp"):
            raise ConfigurationError(
                f"launch_mode={self.launch_mode!r} is unknown: use asyncio, thread or mp."
            )
        if self.n_workers < 1 or (self.n_workers > 1 and self.launch_mode != "mp"):
            raise ConfigurationError(
                f"n_workers={self.n_workers} does not go with launch_mode={self.launch_mode!r}: "
                "use 1, or launch_mode='mp' for more."
            )


@contextlib.asynccontextmanager
async def noop_context() -> AsyncGenerator[None, None]:
    """Do nothing around serving."""
    yield


class PythonServerLauncher:
    """Serves one ASGI application; may be started again after it was stopped.

    Coroutines must be awaited in one event loop at a time. Pickling keeps the addresses only,
    so that a copy in another process can still say where the server is.

    Args:
        app: The application; in mode `mp` also a picklable factory with `is_app_factory = True`.
        args: Where and how.
        serve_context: Entered before serving and left after it, in the caller's loop.
        before_shutdown: Called in the serving loop before running requests are waited for.
    """

    def __init__(
        self,
        app: Any,
        args: PythonServerLauncherArgs,
        serve_context: AbstractAsyncContextManager[Any] | None = None,
        *,
        before_shutdown: Callable[[], None] | None = None,
    ) -> None:
        self.app = app
        self.args = args
        self._context = serve_context
        self._before_shutdown = before_shutdown
        self._host = args.host or LOOPBACK_HOST
        self._port = args.port or 0
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: ServerThread | None = None
        self._processes: ServerProcesses | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"args": self.args, "_host": self._host, "_port": self._port}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(None, state["args"])
        self._host, self._port = state["_host"], state["_port"]

    @property
    def port(self) -> int:
        """The bound port; 0 before the first start when none was asked for."""
        return self._port

    @property
    def endpoint(self) -> str:
        """URL as seen from this machine."""
        host = LOOPBACK_HOST if self._host in ANY_HOSTS else self._host
        return format_address(host, self._port)

    @property
    def access_endpoint(self) -> str:
        """URL to give to clients, which may run on other machines."""
        host = self.args.access_host
        if host is None:
            host = outbound_address() if self._host in ANY_HOSTS else self._host
        return format_address(host, self._port)

    @property
    def health_url(self) -> str | None:
        """URL of the health check, or None when there is none."""
        path = self.args.healthcheck_url
        if path is None or path.startswith(("http://", "https://")):
            return path
        return f"{self.endpoint}/{path.lstrip('/')}"

    def is_running(self) -> bool:
        """Return whether the server runs."""
        if self._thread is not None:
            return self._thread.is_running()
        if self._processes is not None:
            return self._processes.is_running()
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Serve, and return once requests are answered.

        Raises:
            RuntimeError: It runs already, or did not start.
            ConfigurationError: The address cannot be bound.
        """
        if self.is_running():
            raise RuntimeError("The server is already running: stop() it first.")
        listener = bind_socket(self._host, self.args.port or 0)
        self._port = int(listener.getsockname()[1])
        try:
            if self._context is not None:
                await self._context.__aenter__()
            await self._launch(listener)
            await self._check_health()
        except BaseException:
            listener.close()
            raise
        logger.info("server started", extra={"endpoint": self.endpoint})

    async def stop(self) -> None:
        """Finish running requests and stop; does nothing when it does not run."""
        if self._task is not None and self._server is not None:
            self._server.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.stop, self.args.thread_join_timeout)
        if self._processes is not None:
            await asyncio.to_thread(self._processes.stop, self.args.process_join_timeout)
        running = self._task or self._thread or self._processes
        self._task = self._server = self._thread = self._processes = None
        if running is not None and self._context is not None:
            await self._context.__aexit__(None, None, None)

    async def reload(self) -> None:
        """Stop and start again."""
        await self.stop()
        await self.start()

    async def run_forever(self) -> None:
        """Serve until cancelled, or until SIGINT or SIGTERM reaches the main thread."""
        if not self.is_running():
            await self.start()
        try:
            await self._wait_for_end()
        finally:
            await self.stop()

    async def _launch(self, listener: socket.socket) -> None:
        options = ServeOptions(
            log_level=self.args.log_level,
            access_log=self.args.access_log,
            timeout_keep_alive=self.args.timeout_keep_alive,
        )
        if self.args.launch_mode == "mp":
            self._processes = ServerProcesses(self.app, listener, options)
            await asyncio.to_thread(
                self._processes.start, self.args.n_workers, self.args.startup_timeout
            )
            return
        if self.args.launch_mode == "thread":
            self._thread = ServerThread(
                self.app,
                listener,
                options,
                name=f"agl-server-{self._port}",
                before_shutdown=self._before_shutdown,
            )
            await asyncio.to_thread(self._thread.start, self.args.startup_timeout)
            return
        await self._launch_task(listener, options)

    async def _launch_task(self, listener: socket.socket, options: ServeOptions) -> None:
        started = asyncio.Event()
        self._server = make_server(
            self.app, options, on_started=started.set, before_shutdown=self._before_shutdown
        )
        self._task = asyncio.create_task(_serve_here(self._server, listener), name="agl-server")
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait(
            {self._task, waiting},
            timeout=self.args.startup_timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
        waiting.cancel()
        if self._task.done():
            raise RuntimeError(f"The server failed to start: {self._task.exception()}")
        if not started.is_set():
            await self.stop()
            raise RuntimeError(f"The server did not start within {self.args.startup_timeout} s.")

    async def _check_health(self) -> None:
        url = self.health_url
        if url is None:
            return
        deadline = monotonic() + self.args.startup_timeout
        while not await asyncio.to_thread(_answers, url):
            if monotonic() > deadline or not self.is_running():
                if self.args.kill_unhealthy_server:
                    await self.stop()
                    raise RuntimeError(f"The server did not become healthy at {url}.")
                logger.warning("server is not healthy", extra={"url": url})
                return
            await asyncio.sleep(0.05)

    async def _wait_for_end(self) -> None:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        handled: list[signal.Signals] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            # Loops outside the main thread, and on Windows, cannot watch signals.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, told.set)
                handled.append(number)
        try:
            while self.is_running() and not told.is_set():
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(told.wait(), 0.5)
        finally:
            for number in handled:
                loop.remove_signal_handler(number)


async def _serve_here(server: uvicorn.Server, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    except SystemExit as error:
        # Why: uvicorn exits the process when start-up fails, which is not ours to end.
        raise RuntimeError("the application's start-up failed; see the log") from error
    finally:
        listener.close()


def _answers(url: str) -> bool:
    """Return whether a GET of `url` gives 200; proxies of the environment are not used."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
