"""Serving an ASGI application with uvicorn from a socket, a task or a thread of this process.

It knows nothing of what is served; other processes are the business of `serving_process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentlightning._internal.serving_protocol import gathering_protocol
from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    import uvicorn

__all__ = [
    "LOOPBACK_HOST",
    "ServeOptions",
    "ServerThread",
    "abort_connections",
    "bind_socket",
    "format_address",
    "is_loopback",
    "loop_factory",
    "make_server",
    "outbound_address",
]

logger = logging.getLogger(__name__)

LOOPBACK_HOST = "127.0.0.1"
MAX_PORT = 65535
ANY_HOSTS = frozenset({"0.0.0.0", "::", ""})
"""Hosts that bind every interface."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How uvicorn serves; all plain values, so that they travel to another process."""

    log_level: int = logging.INFO
    access_log: bool = False
    timeout_keep_alive: int = 30
    """Seconds that an idle connection is kept."""
    graceful_seconds: int = 5
    """How long running requests may take once the server is asked to stop."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loops of servers: uvloop where it is installed."""
    from uvicorn import Config

    # Without `log_config=None` uvicorn would set up logging, which is the program's.
    return Config(app="", loop="auto", log_config=None).get_loop_factory()


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def outbound_address() -> str:
    """Return the IPv4 address other machines see us under, or loopback when there is no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing; it only picks the route.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return LOOPBACK_HOST
        return str(probe.getsockname()[0])


def format_address(host: str, port: int) -> str:
    """Return the `http://` URL of a host and port, with brackets around IPv6."""
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{shown}:{port}"


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind a TCP socket without listening yet; port 0 lets the system choose.

    Raises:
        ConfigurationError: The address is taken, not ours, or does not resolve.
    """
    if not 0 <= port <= MAX_PORT:
        raise ConfigurationError(f"Cannot bind port {port}: use 0 to {MAX_PORT}.")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigurationError(
            f"Cannot resolve {host!r} port {port} ({error}). Use an address of this machine."
        ) from error
    bound = socket.socket(family, kind, proto)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigurationError(
            f"Cannot bind {host}:{port} ({error}). Choose another port, or 0 for a free one."
        ) from error
    bound.set_inheritable(True)
    return bound


def make_server(
    app: Any,
    options: ServeOptions,
    *,
    on_started: Callable[[], None] | None = None,
    before_shutdown: Callable[[], None] | None = None,
) -> uvicorn.Server:
    """Return a uvicorn server that leaves signals and logging set-up to its owner.

    Args:
        app: Any ASGI application.
        options: How to serve it.
        on_started: Called in the server's loop once connections are accepted.
        before_shutdown: Called in the server's loop once it is asked to stop, before it waits
            for running requests; ends streams that would never end by themselves.
    """
    import uvicorn

    class _Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if on_started is not None and self.started:
                on_started()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            if before_shutdown is not None:
                before_shutdown()
            await super().shutdown(sockets=sockets)
            await abort_connections(self)

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level=options.log_level,
        access_log=options.access_log,
        http=gathering_protocol(),
        # Who called is not used, and finding it out behind proxies takes time.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=options.timeout_keep_alive,
        timeout_graceful_shutdown=options.graceful_seconds,
    )
    return _Server(config)


async def abort_connections(server: uvicorn.Server) -> None:
    """Cut the connections that are still open when a server has stopped.

    A client may keep one longer than the server waits, and then it would outlive the loop.
    """
    for connection in list(server.server_state.connections):
        transport: asyncio.Transport | None = getattr(connection, "transport", None)
        if transport is not None:
            transport.abort()
    # Transports close in the loop's next turn.
    await asyncio.sleep(0)


class ServerThread:
    """A uvicorn server in a thread with an event loop of its own.

    `start` and `stop` block briefly and may be called from any thread but the server's own; in
    a coroutine, wrap them in `asyncio.to_thread`. An object serves once.
    """

    def __init__(
        self,
        app: Any,
        listener: socket.socket,
        options: ServeOptions,
        *,
        name: str,
        before_shutdown: Callable[[], None] | None = None,
    ) -> None:
        self._ready = threading.Event()
        self._listener = listener
        self._server = make_server(
            app, options, on_started=self._ready.set, before_shutdown=before_shutdown
        )
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that serves; None before `start` and after the end."""
        return self._loop

    def is_running(self) -> bool:
        """Return whether requests are being served."""
        return self._thread.is_alive() and self._server.started

    def start(self, timeout: float = 60.0) -> None:
        """Serve in the background and return once connections are accepted.

        Raises:
            RuntimeError: The application failed to start, or `timeout` seconds passed.
        """
        self._thread.start()
        if not self._ready.wait(timeout):
            self.stop()
            raise RuntimeError(f"The server did not start within {timeout} s.")
        if self._failure is not None:
            self._thread.join()
            raise RuntimeError(f"The server failed to start: {self._failure}") from self._failure

    def stop(self, timeout: float = 10.0) -> None:
        """Finish running requests and end the thread; idempotent.

        Raises:
            RuntimeError: The thread still runs after `timeout` seconds.
        """
        self._server.should_exit = True
        if self._thread.ident is None:
            self._listener.close()
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._server.force_exit = True
            raise RuntimeError(f"The server thread did not end within {timeout} s.")

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                self._loop = runner.get_loop()
                runner.run(self._server.serve(sockets=[self._listener]))
        # SystemExit is how uvicorn reports that the application's start-up failed.
        except (Exception, SystemExit) as error:
            self._failure = error
            logger.exception("server thread failed")
        finally:
            self._loop = None
            self._listener.close()
            self._ready.set()
