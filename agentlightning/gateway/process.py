"""A gateway in processes of its own, steered over pipes.

The processes share one listening socket and end with their parent. They are started afresh, so
that the program's main module is not run again in them; what they are given must be importable.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from agentlightning._internal.clock import monotonic
from agentlightning._internal.serving import LOOPBACK_HOST, bind_socket, format_address
from agentlightning.errors import ConfigurationError, GatewayError
from agentlightning.gateway.budget import CallBudget
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.recorder import GatewayStats
from agentlightning.store.base import LightningStore

__all__ = ["GatewayProcesses", "GatewaySpec", "serve_child"]

logger = logging.getLogger(__name__)

_STARTUP_SECONDS = 60.0
_REPLY_SECONDS = 30.0
_STOP_MARGIN_SECONDS = 15.0
_ORPHAN_SECONDS = 1.0
"""How often a child looks whether it still has its parent."""
_DRAIN_STEP_SECONDS = 0.2

_CHILD: Final = (
    "import sys; sys.path[:] = {path!r}; "
    "from agentlightning.gateway.process import serve_child; serve_child({channel})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySpec:
    """What the processes serve; all of it is pickled."""

    store: LightningStore
    models: Mapping[str, ModelRoute]
    host: str = LOOPBACK_HOST
    secret: str | None = None
    middlewares: Sequence[Callable[[Any], Any]] = ()
    budget: CallBudget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChildSpec:
    gateway: GatewaySpec
    listeners: tuple[int, ...]
    """File descriptors: the shared socket, and the child's own."""
    peers: tuple[str, ...]
    log_level: int


class GatewayProcesses:
    """Does what `Gateway` does, in one process or several.

    Args:
        spec: What to serve.
        port: 0 lets the system choose.
        n_workers: How many processes; each attempt's calls are counted over all of them.

    Raises:
        ConfigurationError: The parts cannot work together.
    """

    def __init__(self, spec: GatewaySpec, *, port: int = 0, n_workers: int = 1) -> None:
        if n_workers > 1 and spec.budget is not None:
            raise ConfigurationError(
                "A budget is counted in one process. Use num_workers=1, or no budget."
            )
        self._spec = spec
        self._port = port
        self._n_workers = n_workers
        self._children: list[_Child] = []

    @property
    def url(self) -> str:
        """Return the root URL, without `/v1`.

        Raises:
            GatewayError: It was never started and its port is not chosen yet.
        """
        if not self._port:
            raise GatewayError("The gateway has no address yet. Call start() first.")
        host = {"0.0.0.0": LOOPBACK_HOST, "::": "::1"}.get(self._spec.host, self._spec.host)
        return format_address(host, self._port)

    @property
    def endpoint(self) -> str:
        """Return the base URL for OpenAI clients, with `/v1`."""
        return f"{self.url}/v1"

    @property
    def is_running(self) -> bool:
        """Return whether all processes live."""
        return bool(self._children) and all(child.is_alive for child in self._children)

    @property
    def pids(self) -> list[int]:
        """Return the ids of the processes."""
        return [child.pid for child in self._children]

    @property
    def stats(self) -> GatewayStats:
        """Return the counts of all processes."""
        total = GatewayStats()
        for stats in self._ask_all("stats"):
            total.add(stats)
        return total

    def set_models(self, models: Mapping[str, ModelRoute]) -> None:
        """Replace all routes; calls under way keep theirs."""
        self._ask_all("set_models", models)

    def set_store(self, store: LightningStore) -> None:
        """Record calls that end from now on in another store, which must travel."""
        self._ask_all("set_store", store)

    async def start(self) -> None:
        """Start the processes; does nothing when they run. After a `stop`, and after a process was
        killed, the address is the same again.

        Raises:
            ConfigurationError: The address is taken, or something cannot be sent to a process.
            GatewayError: A process did not start; the message says why.
        """
        await asyncio.to_thread(self._start)

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """Let calls in flight end within `grace_seconds`, cut the others off, and close."""
        await asyncio.to_thread(self._stop, grace_seconds)

    async def pause(self) -> None:
        """Hold back calls to trained models from now on; those in flight go on. Idempotent."""
        await asyncio.to_thread(self._ask_all, "pause")

    async def drain(self, timeout: float | None = None) -> bool:
        """Wait until no trained model is at work for us; return whether that came in time."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left = _DRAIN_STEP_SECONDS if deadline is None else deadline - monotonic()
            step = max(0.0, min(_DRAIN_STEP_SECONDS, left))
            if all(await asyncio.to_thread(self._ask_all, "drain", step)):
                return True
            if deadline is not None and monotonic() >= deadline:
                return False

    def resume(self) -> None:
        """Let the calls that were held back go on. Idempotent."""
        self._ask_all("resume")

    def _start(self) -> None:
        if self.is_running:
            return
        self._stop(0.0)
        shared = bind_socket(self._spec.host, self._port)
        self._port = shared.getsockname()[1]
        own = [bind_socket(LOOPBACK_HOST, 0) for _ in range(self._n_workers)]
        urls = [format_address(LOOPBACK_HOST, each.getsockname()[1]) for each in own]
        try:
            for index, private in enumerate(own):
                peers = tuple(url for at, url in enumerate(urls) if at != index)
                self._children.append(_Child(self._spec, [shared, private], peers))
            for child in self._children:
                child.wait_ready()
        except BaseException:
            self._stop(0.0)
            raise
        finally:
            # A copy kept here would take connections in when no child is left to answer them.
            for each in (shared, *own):
                each.close()

    def _stop(self, grace_seconds: float) -> None:
        children, self._children = self._children, []
        for child in children:
            child.ask_to_stop(grace_seconds)
        for child in children:
            child.wait_gone(grace_seconds + _STOP_MARGIN_SECONDS)

    def _ask_all(self, method: str, *arguments: Any) -> list[Any]:
        if not self._children:
            raise GatewayError("The gateway is not running. Call start() first.")
        return [child.ask(method, *arguments) for child in self._children]


class _Child:
    """One process as its parent sees it."""

    def __init__(self, spec: GatewaySpec, listeners: list[socket.socket], peers: tuple[str, ...]):
        ours, theirs = socket.socketpair()
        with theirs:
            kept = [*(each.fileno() for each in listeners), theirs.fileno()]
            code = _CHILD.format(path=sys.path, channel=theirs.fileno())
            self._process = subprocess.Popen([sys.executable, "-c", code], pass_fds=kept)
        self._channel = Connection(ours.detach())
        self._lock = threading.Lock()
        self._asked = 0
        level = logging.getLogger().getEffectiveLevel()
        fds = tuple(each.fileno() for each in listeners)
        told = _ChildSpec(gateway=spec, listeners=fds, peers=peers, log_level=level)
        try:
            self._send(told)
        except BaseException:
            self._process.kill()
            self.wait_gone(0.0)
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self) -> None:
        self._receive(0, _STARTUP_SECONDS)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Return what a method of the child's gateway returns."""
        with self._lock:
            self._asked += 1
            self._send((self._asked, method, arguments))
            return self._receive(self._asked, _REPLY_SECONDS)

    def ask_to_stop(self, grace_seconds: float) -> None:
        with self._lock:
            try:
                self._channel.send_bytes(pickle.dumps((0, "stop", (grace_seconds,))))
            except OSError:
                logger.debug("gateway process had already ended", extra={"pid": self.pid})

    def wait_gone(self, timeout: float) -> None:
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            logger.warning("gateway process did not stop in time", extra={"pid": self.pid})
            self._process.kill()
            self._process.wait()
        self._channel.close()

    def _send(self, message: Any) -> None:
        try:
            data = pickle.dumps(message)
        except (pickle.PicklingError, TypeError, AttributeError, RuntimeError) as error:
            raise ConfigurationError(
                f"The gateway cannot be given to a process of its own ({error}). Use "
                "launch_mode='thread', or a store and middlewares that can be pickled."
            ) from error
        try:
            self._channel.send_bytes(data)
        except OSError as error:
            raise self._gone() from error

    def _receive(self, number: int, timeout: float) -> Any:
        told, ok, value = -1, False, None
        try:
            # An answer that came too late for an earlier question is none to this one.
            while told != number:
                if not self._channel.poll(timeout):
                    raise GatewayError(f"The gateway's process said nothing for {timeout:g} s.")
                told, ok, value = pickle.loads(self._channel.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if not ok:
            raise GatewayError(f"The gateway's process failed: {value}")
        return value

    def _gone(self) -> GatewayError:
        return GatewayError(
            f"The gateway's process {self.pid} is gone (exit code {self._process.poll()}). "
            "Call start() to have another one."
        )


def serve_child(channel_fd: int) -> None:
    """Serve as a child: read what to do from the pipe, until told to stop or left alone."""
    channel = Connection(channel_fd)
    # A Ctrl-C of the terminal is the parent's to answer, which then stops this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    has_started, gateway = _try(lambda: _start_gateway(channel))
    channel.send_bytes(pickle.dumps((0, has_started, None if has_started else gateway)))
    if has_started:
        gateway.stop_sync(_obey(gateway, channel))


def _try(action: Callable[[], Any]) -> tuple[bool, Any]:
    """Return whether an action succeeded, with its value, or else what to tell the parent."""
    try:
        return True, action()
    except Exception as error:  # noqa: BLE001 - boundary: an order of the parent, which raises it.
        return False, f"{type(error).__name__}: {error}"


def _start_gateway(channel: Connection) -> Any:
    told: _ChildSpec = pickle.loads(channel.recv_bytes())
    logging.basicConfig(level=told.log_level)
    gateway = _make_gateway(told)
    gateway.start_sync([socket.socket(fileno=fd) for fd in told.listeners])
    return gateway


def _make_gateway(told: _ChildSpec) -> Any:
    from agentlightning.gateway.server import Gateway

    spec = told.gateway
    return Gateway(
        spec.store,
        models=spec.models,
        host=spec.host,
        secret=spec.secret,
        middlewares=spec.middlewares,
        budget=spec.budget,
        peers=told.peers,
    )


def _obey(gateway: Any, channel: Connection) -> float:
    """Call the gateway's methods as the parent asks; return the grace for calls at the end."""
    parent = os.getppid()
    while True:
        # A process that the parent forked may hold the pipe open when the parent is gone.
        if not channel.poll(_ORPHAN_SECONDS):
            if os.getppid() != parent:
                return 0.0
            continue
        try:
            number, method, arguments = pickle.loads(channel.recv_bytes())
        except (EOFError, OSError):
            logger.info("parent process is gone, stopping")
            return 0.0
        if method == "stop":
            return float(arguments[0])
        outcome = _try(functools.partial(_do, gateway, method, arguments))
        channel.send_bytes(pickle.dumps((number, *outcome)))


def _do(gateway: Any, method: str, arguments: Sequence[Any]) -> Any:
    value = getattr(gateway, method)
    value = value(*arguments) if callable(value) else value
    return asyncio.run(value) if asyncio.iscoroutine(value) else value
