"""Running a gateway: its thread, its event loop and its socket."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from agentlightning._internal.serving import bind_socket, is_loopback, loop_factory
from agentlightning.errors import ConfigurationError, GatewayError
from agentlightning.gateway.app import GatewayApp
from agentlightning.gateway.budget import CallBudget
from agentlightning.gateway.capture import CallServices
from agentlightning.gateway.dialects.anthropic import AnthropicMessagesDialect
from agentlightning.gateway.dialects.completions import CompletionsDialect
from agentlightning.gateway.dialects.openai_chat import OpenAIChatDialect
from agentlightning.gateway.dialects.responses import ResponsesDialect
from agentlightning.gateway.models import ModelRoute, ModelTable
from agentlightning.gateway.pause import PauseGate
from agentlightning.gateway.peers import GatewayPeers
from agentlightning.gateway.recorder import CallRecorder, GatewayStats
from agentlightning.gateway.replay import ReplayCache
from agentlightning.gateway.seal import CallLedger
from agentlightning.gateway.serving import GatewayServer
from agentlightning.gateway.stored_responses import StoredResponses
from agentlightning.gateway.upstream import Upstream
from agentlightning.store.base import LightningStore

__all__ = ["Gateway"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_STARTUP_SECONDS = 30.0
_STORE_SECONDS = 60.0
"""How long a call waits for its record to be stored."""


class Gateway:
    """A pass-through in front of model servers that records every call of an attempt.

    It runs in a thread of its own, or with `start_here` in the caller's event loop; its methods may
    be called from any thread and event loop.
    A call belongs to the attempt in its path (`/rollout/{id}/attempt/{id}/v1/…`) or in its
    `x-rollout-id` and `x-attempt-id` headers; one that names none is passed through unrecorded.

    Args:
        store: Takes the call records; it is used from the gateway's thread.
        models: What stands behind each name that agents may use.
        default_model: The one that serves names which are not in `models`.
        host: Address to listen on; one that others can reach needs a `secret`.
        port: 0 lets the system choose.
        secret: What clients must send as their API key; None asks for none.
        middlewares: ASGI middleware classes, the outermost first.
        pause_wait_seconds: How long a call waits while the gateway is paused before it is told to
            come again.
        budget: What the calls of one attempt may cost in all.
        peers: URLs of other gateways that serve the same address in other processes.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own, and all go by name.
        self,
        store: LightningStore,
        *,
        models: Mapping[str, ModelRoute],
        default_model: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        secret: str | None = None,
        middlewares: Sequence[Callable[[Any], Any]] = (),
        pause_wait_seconds: float = 120.0,
        budget: CallBudget | None = None,
        peers: Sequence[str] = (),
    ) -> None:
        if secret is None and not is_loopback(host):
            raise ConfigurationError(
                f"A gateway on {host} can be reached by others, who could use your models. "
                "Give it a secret, or listen on 127.0.0.1."
            )
        _check_prices(budget, models)
        self._models = ModelTable(models, default_model)
        self._host = host
        self._secret = secret
        self._middlewares = tuple(middlewares)
        self._stats = GatewayStats()
        self._gate = PauseGate()
        self._recorder = CallRecorder(store, self._stats, _STORE_SECONDS)
        others = GatewayPeers(peers, secret)
        self._services = CallServices(
            models=self._models,
            gate=self._gate,
            ledger=CallLedger(),
            recorder=self._recorder,
            replays=ReplayCache(),
            pause_wait_seconds=pause_wait_seconds,
            budget=budget,
            peers=others,
            responses=StoredResponses(self._recorder, self._models, others),
        )
        self._upstreams: list[Upstream] = [route.upstream for route in models.values()]
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: GatewayServer | None = None
        self._task: asyncio.Task[None] | None = None
        self._port = port

    @property
    def url(self) -> str:
        """Return the root URL, without `/v1`.

        Raises:
            GatewayError: It was never started and its port is not chosen yet.
        """
        if not self._port:
            raise GatewayError("The gateway has no address yet. Call start() first.")
        host = self._host
        reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
        return f"http://{reachable}:{self._port}"

    @property
    def endpoint(self) -> str:
        """Return the base URL for OpenAI clients, with `/v1`."""
        return f"{self.url}/v1"

    @property
    def is_running(self) -> bool:
        """Return whether it answers calls."""
        if self._task is not None:
            return not self._task.done()
        return self._thread is not None and self._thread.is_alive()

    @property
    def stats(self) -> GatewayStats:
        """Return a copy of the counts."""
        return replace(self._stats)

    @property
    def models(self) -> Mapping[str, ModelRoute]:
        """Return the routes by alias."""
        return self._models.routes

    def set_model(self, alias: str, route: ModelRoute) -> None:
        """Add a route or replace one; calls under way keep the old one."""
        self._upstreams.append(route.upstream)
        self._models.put(alias, route)

    def set_models(
        self, models: Mapping[str, ModelRoute], default_model: str | None = None
    ) -> None:
        """Replace all routes; calls under way keep theirs."""
        self._upstreams += [route.upstream for route in models.values()]
        self._models.replace(models, default_model)

    def set_store(self, store: LightningStore) -> None:
        """Record calls that end from now on in another store."""
        self._recorder.store = store

    async def start(self) -> None:
        """Listen and serve; does nothing when it already does. After a `stop`, the address is
        the same again.

        Raises:
            ConfigurationError: The address is taken, or is not one of this machine.
        """
        await asyncio.to_thread(self.start_sync)

    def start_sync(self, listeners: Sequence[socket.socket] = ()) -> None:
        """Do what `start` does, from a thread without an event loop.

        Args:
            listeners: Bound sockets to serve instead of host and port; the first has the address.
        """
        if self.is_running:
            return
        bound = self._bind(listeners)
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(bound, ready), name="gateway", daemon=True
        )
        self._thread.start()
        ready.result(_STARTUP_SECONDS)

    async def start_here(self) -> None:
        """Serve in the caller's event loop instead of a thread; see `start`.

        For stores that are to be used from one thread. Whatever blocks the loop blocks the calls.
        """
        if self.is_running:
            return
        ready: Future[None] = Future()
        self._task = asyncio.create_task(self._serve(self._bind(()), ready), name="gateway")
        listening = asyncio.ensure_future(asyncio.wrap_future(ready))
        await asyncio.wait({self._task, listening}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            listening.cancel()
            await self._task

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """Let calls in flight end within `grace_seconds`, cut the others off, and close.

        Calls that are cut off are recorded as cancelled. Upstreams are closed. Idempotent.
        """
        task, server, loop = self._task, self._server, self._loop
        if task is None:
            await asyncio.to_thread(self.stop_sync, grace_seconds)
        elif server is not None and loop is not None:
            self._ask_to_stop(server, loop, grace_seconds)
            if loop is asyncio.get_running_loop():
                await task
            else:
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_await(task), loop))
            self._task = self._server = self._loop = None

    def stop_sync(self, grace_seconds: float = 5.0) -> None:
        """Do what `stop` does, from a thread without an event loop."""
        thread, server, loop = self._thread, self._server, self._loop
        if thread is None or server is None or loop is None:
            return
        if thread.is_alive():
            self._ask_to_stop(server, loop, grace_seconds)
        thread.join()
        self._thread = self._server = self._loop = None

    async def pause(self) -> None:
        """Hold back calls to trained models from now on; those in flight go on. Idempotent."""
        await self._in_loop(_call(self._gate.pause))

    async def drain(self, timeout: float | None = None) -> bool:
        """Wait until no trained model is at work for us; return whether that came in time."""
        return await self._in_loop(self._gate.drain(timeout))

    def resume(self) -> None:
        """Let the calls that were held back go on. Idempotent."""
        loop = self._loop
        if loop is None:
            self._gate.resume()
        else:
            loop.call_soon_threadsafe(self._gate.resume)

    async def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        loop = self._loop
        if loop is None:
            work.close()
            raise GatewayError("The gateway is not running. Call start() first.")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

    def _ask_to_stop(
        self, server: GatewayServer, loop: asyncio.AbstractEventLoop, grace_seconds: float
    ) -> None:
        self.resume()
        server.config.timeout_graceful_shutdown = max(1, round(grace_seconds))
        loop.call_soon_threadsafe(server.stopping.set)

    def _bind(self, listeners: Sequence[socket.socket]) -> list[socket.socket]:
        bound = list(listeners) or [bind_socket(self._host, self._port)]
        self._port = bound[0].getsockname()[1]
        return bound

    def _run(self, listeners: list[socket.socket], ready: Future[None]) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._serve(listeners, ready))
        except Exception as error:
            # Boundary: top of the thread. Whoever waits for the start must learn of it.
            logger.exception("gateway ended with an error")
            if not ready.done():
                ready.set_exception(error)

    async def _serve(self, listeners: list[socket.socket], ready: Future[None]) -> None:
        dialects = [
            OpenAIChatDialect(),
            CompletionsDialect(),
            ResponsesDialect(self._services.responses.memory),
            AnthropicMessagesDialect(),
        ]
        app: Any = GatewayApp(self._services, dialects, self._stats, self._secret)
        for middleware in reversed(self._middlewares):
            app = middleware(app)
        self._loop = asyncio.get_running_loop()
        self._server = GatewayServer(app, ready)
        try:
            await self._server.run_until_stopped(listeners)
        finally:
            for listener in listeners:
                listener.close()
            for upstream in {id(upstream): upstream for upstream in self._upstreams}.values():
                await upstream.aclose()


def _check_prices(budget: CallBudget | None, models: Mapping[str, ModelRoute]) -> None:
    limits_cost = budget is not None and budget.cost is not None
    if limits_cost and all(route.price is None for route in models.values()):
        raise ConfigurationError(
            "The budget limits the cost, but no model has a price. Give each that costs "
            "something a ModelRoute.price (in model lists: input_cost_per_token and others)."
        )


async def _call(action: Callable[[], None]) -> None:
    action()


async def _await(task: asyncio.Task[None]) -> None:
    await task
