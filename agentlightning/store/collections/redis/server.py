"""Talking to the server: one client on its event loop, patience with a lost connection, errors.

Commands that are sent again may be carried out twice; callers send only such as bear it.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from agentlightning._internal.clock import monotonic
from agentlightning._internal.io_loop import IoLoop
from agentlightning.errors import ConfigurationError, StoreError, StoreUnavailableError
from agentlightning.store.collections.redis.lanes import ANSWER_SECONDS, Lanes
from agentlightning.store.collections.redis.scripts import Script

T = TypeVar("T")

OPEN_SECONDS: Final = 5.0
"""How long the first call tries to reach the server."""
PATIENCE_SECONDS: Final = 20.0
"""How long later calls do, so that a restart of the server goes unnoticed."""
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_STOP_SECONDS: Final = 5.0

_CLOSED: Final = "The store is closed; open it again."

_PASSING_REPLIES: Final = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "READONLY")
"""Errors of the server that may be gone in a moment: a long script, a full disk, a fail-over."""


def _is_passing(error: BaseException) -> bool:
    """Return whether the same command may succeed in a moment."""
    # redis-py strips the first word of the replies that it has classes for.
    lost = exceptions.ConnectionError | exceptions.TimeoutError | exceptions.ReadOnlyError | OSError
    return isinstance(error, lost) or str(error).startswith(_PASSING_REPLIES)


def _is_login(error: BaseException) -> bool:
    """Return whether a login failed, which redis-py may wrap as a lost connection."""
    kinds = exceptions.AuthenticationError | exceptions.AuthorizationError
    cause: BaseException | None = error
    while cause is not None:
        # A server with a password refuses the first command of who gives none.
        if isinstance(cause, kinds) or str(cause).startswith(("NOAUTH", "HELLO must")):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _lasting(error: BaseException) -> StoreError | ConfigurationError | None:
    """Return what to raise for an error that trying again does not mend."""
    if _is_login(error):
        return ConfigurationError(
            f"The Redis server refused the login: {error}; give user and password in the URL."
        )
    if isinstance(error, exceptions.NoPermissionError):
        return ConfigurationError(f"The Redis user may not do what a store needs: {error}")
    if isinstance(error, exceptions.OutOfMemoryError):
        return StoreUnavailableError(
            f"The Redis server has no memory left: {error}; raise maxmemory or remove old data."
        )
    if isinstance(error, exceptions.ResponseError) and str(error).startswith("MOVED"):
        return ConfigurationError(
            "The server is a node of a Redis cluster, which is not supported; use a single "
            "primary, with replicas if need be."
        )
    if not _is_passing(error):
        return StoreError(f"The Redis server refused a command: {error}")
    return None


class RedisServer:
    """The connection to one server.

    Args:
        url: As redis-py reads it.
        options: Further arguments of redis-py's client.
        base: What all keys begin with.
        prepare: Run once, before the first call, with the client.
    """

    def __init__(
        self,
        url: str,
        options: dict[str, Any],
        base: str,
        prepare: Callable[[Redis, str], Awaitable[None]],
    ) -> None:
        self.base = base
        self.io = IoLoop("agentlightning-redis")
        self._address = shown(url)
        self._prepare = prepare
        self._client = connect(url, options)
        self._lanes = Lanes(self._client)
        self._used = False
        self._given_up = False
        self._ready = False
        self._opening = asyncio.Lock()
        self._closing = asyncio.Event()

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the loop that owns the client."""
        self._used = True
        return await self.io.run(work)

    async def command(self, *parts: str | int | bytes) -> Any:
        """Carry out a command that may be repeated, and return its raw reply."""
        return await self.run(lambda: self._patiently(lambda: self._lanes.send(*parts)))

    async def script(self, script: Script, *arguments: str | int | bytes) -> Any:
        """Run a script that may be repeated, and return its raw reply."""

        async def ask() -> Any:
            try:
                return await self._lanes.send("EVALSHA", script.sha, 1, self.base, *arguments)
            except exceptions.NoScriptError:
                # The server was restarted, or its scripts were flushed.
                return await self._lanes.send("EVAL", script.source, 1, self.base, *arguments)

        return await self.run(lambda: self._patiently(ask))

    async def _patiently(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Ask until there is an answer, or patience ends."""
        began = monotonic()
        pause = _FIRST_PAUSE
        while True:
            try:
                if not self._ready:
                    await self._unless_closing(self._open())
                return await ask()
            except (exceptions.RedisError, OSError) as error:
                lasting = _lasting(error)
                if lasting is not None:
                    raise lasting from error
                limit = PATIENCE_SECONDS if self._ready else OPEN_SECONDS
                if monotonic() - began + pause > limit:
                    raise self._unavailable(error) from error
            # Jitter, so that the callers of a restarted server do not come all at once.
            await self._unless_closing(asyncio.sleep(pause * random.uniform(0.5, 1)))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _unavailable(self, error: BaseException) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"The Redis server at {self._address} cannot be reached: {error}; "
            "start it, or check the URL."
        )

    async def _open(self) -> None:
        if self._given_up:
            raise StoreError(_CLOSED)
        async with self._opening:
            if not self._ready:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._prepare(self._client, self.base)
                self._ready = True

    async def _unless_closing(self, work: Coroutine[Any, Any, None]) -> None:
        task, closing = asyncio.create_task(work), asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait([task, closing], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise StoreError(_CLOSED)
            task.result()
        finally:
            task.cancel()
            closing.cancel()

    def give_up(self) -> None:
        """End all patience: calls that wait for the server fail now; idempotent."""

        async def note() -> None:
            self._closing.set()

        self._given_up = True
        self._spawn(note)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Start something on the loop; False when there is no loop (any more) in this process."""
        try:
            if self._used:
                self.io.spawn(work)
        except StoreError:
            return False
        return self._used

    def close(self) -> None:
        """Close the connections and end the loop, from any thread; idempotent."""
        closed = threading.Event()

        async def work() -> None:
            try:
                await self._client.aclose()
            finally:
                closed.set()
                if inside:
                    self.io.close()

        inside = self.io.owns_current_thread()
        if self._spawn(work) and not inside:
            closed.wait(_STOP_SECONDS)
        if not inside:
            self.io.close()


def shown(url: str) -> str:
    """Return the part of a URL that holds no secret."""
    return url.rpartition("@")[2].partition("?")[0]


def connect(url: str, options: dict[str, Any]) -> Redis:
    """Return a client for a URL; it connects when it is used.

    Raises:
        ConfigurationError: The URL or the options are not redis-py's.
    """
    complete: dict[str, Any] = {
        "socket_timeout": None,
        "socket_connect_timeout": OPEN_SECONDS,
        "encoding_errors": "surrogatepass",
        # Whether a command may be repeated is known here only.
        "retry": Retry(NoBackoff(), 0),
        **options,
        "decode_responses": False,
    }
    try:
        return Redis.from_url(url, **complete)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{shown(url)!r} is no Redis URL, or client_kwargs are wrong: {error}"
        ) from error
