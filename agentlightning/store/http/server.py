"""`LightningStoreServer`: any store, served over HTTP, and itself still that store."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from agentlightning._internal.serving import LOOPBACK_HOST, is_loopback
from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStore, LightningStoreCapabilities
from agentlightning.store.http.client import LightningStoreClient
from agentlightning.store.http.operation import API_PREFIX
from agentlightning.store.http.site import DEFAULT_BODY_LIMIT
from agentlightning.store.http.wire import encode
from agentlightning.types import StoreEvent
from agentlightning.types.event import StoreEventKind
from agentlightning.utils.server_launcher import (
    LaunchMode,
    PythonServerLauncher,
    PythonServerLauncherArgs,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

    from agentlightning.store.http.app import StoreApp
    from agentlightning.utils.metrics import MetricsBackend

__all__ = ["DEFAULT_PORT", "LightningStoreServer"]

logger = logging.getLogger(__name__)

DEFAULT_PORT: Final = 4747

_OWN: Final = frozenset({"close", "otlp_traces_endpoint", "subscribe"})
_CALLS: Final = tuple(
    name
    for name in dir(LightningStore)
    if callable(getattr(LightningStore, name)) and not name.startswith("_") and name not in _OWN
)
_TASK_CALLS: Final = frozenset({"start_rollout", "enqueue_rollout", "enqueue_many_rollouts"})


def _forwarded(name: str) -> Callable[..., Any]:
    """Return a method that makes the same call on the store behind the server."""

    @functools.wraps(getattr(LightningStore, name))
    async def call(self: LightningStoreServer, *args: Any, **kwargs: Any) -> Any:
        if name in _TASK_CALLS:
            # Why: a task that cannot travel would only fail in the worker that claims it.
            encode([args, kwargs])
        return await getattr(self.target, name)(*args, **kwargs)

    return call


class LightningStoreServer(LightningStore):
    """Serves a store, and can be used as that store in any process.

    In the process that made it, calls go straight to the store. A copy that was forked or
    unpickled elsewhere calls the server over HTTP.

    Args:
        store: The store to serve. One that is not thread-safe is wrapped in a lock when the
            server has a thread of its own.
        host: Address to bind; None is loopback. Any other than loopback needs a token.
        port: Port to bind; 0 takes a free one, None is 4747.
        cors_allow_origins: Origins whose web pages may call; `*` allows all.
        launch_mode: Where to serve: `thread`, `asyncio` (a task) or `mp` (processes).
        launcher_args: All of the above as the launcher takes it, instead of them.
        n_workers: Serving processes; more than one needs `mp`.
        tracker: Metrics back end that counts requests.
        token: Bearer token that callers must send.
        allow_unauthenticated: Serve a public address without a token all the same.
        body_limit: Largest accepted body in bytes, after decompression.
        run_id: Name of the run; clients that name another one are refused.

    Raises:
        ConfigurationError: The arguments contradict one another, the store cannot be served
            that way, or a public address has no token.
    """

    def __init__(
        self,
        store: LightningStore,
        host: str | None = None,
        port: int | None = None,
        cors_allow_origins: str | Sequence[str] | None = None,
        launch_mode: LaunchMode = "thread",
        launcher_args: PythonServerLauncherArgs | None = None,
        n_workers: int = 1,
        tracker: MetricsBackend | None = None,
        *,
        token: str | None = None,
        allow_unauthenticated: bool = False,
        body_limit: int = DEFAULT_BODY_LIMIT,
        run_id: str | None = None,
    ) -> None:
        if launcher_args is None:
            launcher_args = _make_args(host, port, launch_mode, n_workers)
        elif host is not None or port is not None or launch_mode != "thread":
            raise ConfigurationError(
                "launcher_args goes without host, port and launch_mode: set them in it."
            )
        _refuse_open_door(launcher_args.host, token, allow_unauthenticated)
        self._token = token
        self._run_id = run_id
        self._owner_pid = os.getpid()
        self._client: LightningStoreClient | None = None
        self.store: LightningStore | None = _safe_store(store, launcher_args.launch_mode)
        self._served: StoreApp | None = None
        self._launcher = self._make_launcher(launcher_args, cors_allow_origins, tracker, body_limit)

    def _make_launcher(
        self,
        args: PythonServerLauncherArgs,
        cors_allow_origins: str | Sequence[str] | None,
        tracker: MetricsBackend | None,
        body_limit: int,
    ) -> PythonServerLauncher:
        from agentlightning.store.http.app import StoreApp, StoreAppFactory

        assert self.store is not None
        # With a token, a page that reaches the server still cannot use it.
        check_host = self._token is None and is_loopback(args.host or LOOPBACK_HOST)
        if args.launch_mode == "mp":
            factory = StoreAppFactory(
                store=self.store,
                token=self._token,
                cors_allow_origins=cors_allow_origins,
                body_limit=body_limit,
                run_id=self._run_id,
                check_host=check_host,
            )
            return PythonServerLauncher(factory, args)
        self._served = StoreApp(
            self.store,
            token=self._token,
            cors_allow_origins=cors_allow_origins,
            body_limit=body_limit,
            tracker=tracker,
            run_id=self._run_id,
            check_host=check_host,
        )
        return PythonServerLauncher(
            self._served, args, before_shutdown=self._served.before_shutdown
        )

    def __getstate__(self) -> dict[str, Any]:
        return {
            "launcher": self._launcher,
            "owner_pid": self._owner_pid,
            "token": self._token,
            "run_id": self._run_id,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._launcher = state["launcher"]
        self._owner_pid = state["owner_pid"]
        self._token = state["token"]
        self._run_id = state["run_id"]
        self._client = None
        self._served = None
        self.store = None

    @property
    def app(self) -> FastAPI | None:
        """The FastAPI application; None in a copy, and in launch mode `mp`."""
        return self._served.app if self._served is not None else None

    @property
    def endpoint(self) -> str:
        """URL to give to clients."""
        return self._launcher.access_endpoint

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(
            thread_safe=True, async_safe=True, zero_copy=True, otlp_traces=True
        )

    @property
    def target(self) -> LightningStore:
        """Where calls made in this process go: the store itself, or a client of the server."""
        store = self.store
        at_home = os.getpid() == self._owner_pid
        if store is not None and (at_home or store.capabilities.get("zero_copy")):
            return store
        if self._client is None:
            self._client = LightningStoreClient(
                self.endpoint, token=self._token, run_id=self._run_id
            )
        return self._client

    def otlp_traces_endpoint(self) -> str:
        return f"{self.endpoint}/v1/traces"

    def is_running(self) -> bool:
        """Return whether the server runs; meant for the process that started it."""
        return self._launcher.is_running()

    async def start(self) -> None:
        """Serve, and return once requests are answered.

        Raises:
            RuntimeError: It runs already, or did not start.
            ConfigurationError: The address cannot be bound.
        """
        self._check_owner()
        await self._launcher.start()

    async def stop(self) -> None:
        """Finish running requests and stop serving; the store stays open."""
        self._check_owner()
        await self._launcher.stop()

    async def run_forever(self) -> None:
        """Serve until cancelled, or until SIGINT or SIGTERM."""
        self._check_owner()
        await self._launcher.run_forever()

    async def close(self) -> None:
        """Stop serving, or in another process close the connections; the store stays open."""
        if self._client is not None:
            await self._client.close()
        if os.getpid() == self._owner_pid and self.store is not None:
            await self._launcher.stop()

    def subscribe(
        self,
        *,
        since: int | None = None,
        kinds: Sequence[StoreEventKind] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> AsyncIterator[StoreEvent]:
        return self.target.subscribe(since=since, kinds=kinds, metadata=metadata)

    def _check_owner(self) -> None:
        if self.store is None or os.getpid() != self._owner_pid:
            raise ConfigurationError(
                "This is a copy of a server in another process: start and stop the original."
            )


for _name in _CALLS:
    setattr(LightningStoreServer, _name, _forwarded(_name))


def _make_args(
    host: str | None, port: int | None, launch_mode: LaunchMode, n_workers: int
) -> PythonServerLauncherArgs:
    if port is None:
        logger.warning("no port given, using the default", extra={"port": DEFAULT_PORT})
        port = DEFAULT_PORT
    return PythonServerLauncherArgs(
        host=host or LOOPBACK_HOST,
        port=port,
        launch_mode=launch_mode,
        n_workers=n_workers,
        healthcheck_url=f"{API_PREFIX}/health",
        log_level=logging.WARNING,
    )


def _refuse_open_door(host: str | None, token: str | None, allowed: bool) -> None:
    if token or allowed or is_loopback(host or LOOPBACK_HOST):
        return
    raise ConfigurationError(
        f"Anybody who reaches {host} could read and change this store: give a token, bind "
        "127.0.0.1, or allow it explicitly (allow_unauthenticated=True)."
    )


def _safe_store(store: LightningStore, launch_mode: LaunchMode) -> LightningStore:
    """Return the store, made safe for how it will be called.

    Raises:
        ConfigurationError: It cannot be.
    """
    abilities = store.capabilities
    if launch_mode == "mp" and not abilities.get("zero_copy"):
        raise ConfigurationError(
            f"{type(store).__name__} lives in one process and cannot be served from others: use "
            "launch_mode='thread', or a store that is shared through a database."
        )
    if abilities.get("thread_safe"):
        return store
    if launch_mode == "thread":
        from agentlightning.store.threading import LightningStoreThreaded

        return LightningStoreThreaded(store)
    if not abilities.get("async_safe"):
        raise ConfigurationError(
            f"{type(store).__name__} is not safe for concurrent calls: wrap it in "
            "LightningStoreThreaded."
        )
    return store
