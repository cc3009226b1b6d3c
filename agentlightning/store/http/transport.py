"""Requests of the store's client: connections per event loop, retries, and errors.

Every request that is sent here may be repeated: it either changes nothing twice by its nature, or
carries an idempotency key. It may be used from any number of event loops and threads.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import threading
import uuid
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from agentlightning._internal.clock import monotonic
from agentlightning.errors import StoreUnavailableError
from agentlightning.store.http.errors import RETRYABLE_STATUSES, error_from_wire

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Answer", "Transport", "TransportConfig"]

logger = logging.getLogger(__name__)

JSON_HEADERS: Final = {"content-type": "application/json"}
STREAM_SILENCE_SECONDS: Final = 60.0
"""Longest silence of an event stream before it counts as dead; servers send comments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportConfig:
    """Where the store is and how patient to be; all times in seconds."""

    address: str
    """Root URL without a path at the end."""
    retry_delays: tuple[float, ...] = (1.0, 2.0, 5.0)
    """Pauses before each repeat; empty for no repeats."""
    health_retry_delays: tuple[float, ...] = (0.1, 0.2, 0.5)
    """Steps in which a pause looks whether the server is back; empty to sleep through it."""
    request_timeout: float = 30.0
    connection_timeout: float = 5.0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer."""

    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        """Return the decoded body."""
        return orjson.loads(self.body)


class Transport:
    """Sends requests to one store server."""

    def __init__(self, config: TransportConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._sessions: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[None, None]]
        ] = weakref.WeakKeyDictionary()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        keyed: bool = False,
        extra_seconds: float = 0.0,
    ) -> Answer:
        """Send a request, and again as the configuration allows while the store is unavailable.

        Args:
            method: HTTP method.
            path: Path and query below the address, already quoted.
            body: JSON text.
            keyed: Send an idempotency key, because doing it twice would not be the same.
            extra_seconds: How long the server may wait on purpose.

        Raises:
            StoreUnavailableError: The store cannot be reached or says so, also at the last try.
            StoreError: What the store raised, as the class it raised.
        """
        headers = dict(JSON_HEADERS) if body is not None else {}
        if keyed:
            headers["idempotency-key"] = uuid.uuid4().hex
        delays = iter(self.config.retry_delays)
        while True:
            try:
                return await self._once(method, path, body, headers, extra_seconds)
            except StoreUnavailableError as error:
                delay = next(delays, None)
                if delay is None:
                    raise
                logger.info(
                    "store unavailable, will try again",
                    extra={"path": path, "delay_seconds": delay, "reason": str(error)},
                )
                # A server that answers is not asked for its health, but given its time.
                answered = error.__cause__ is None
                await self._pause(delay, watch_health=not answered)

    async def is_healthy(self) -> bool:
        """Return whether the server answers."""
        try:
            await self._once("GET", "/v1/agl/health", None, {}, 0.0)
        except StoreUnavailableError:
            return False
        return True

    @asynccontextmanager
    async def stream(
        self, path: str, headers: dict[str, str]
    ) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """Open a GET whose answer is read line by line, without retries.

        Raises:
            StoreUnavailableError: The store cannot be reached, or went away.
        """
        import aiohttp

        session = await self._session()
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=self.config.connection_timeout,
            sock_read=STREAM_SILENCE_SECONDS,
        )
        try:
            async with session.get(
                self.config.address + path, headers=headers, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise _error(response.status, await response.read())
                yield aiter(response.content)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise self._unavailable(error) from error

    async def close(self) -> None:
        """Close the connections of every loop; later requests open new ones."""
        with self._lock:
            entries = list(self._sessions.items())
            self._sessions.clear()
        here = asyncio.get_running_loop()
        for loop, (_, closer) in entries:
            if loop is here:
                await closer.aclose()
            elif not loop.is_closed():
                asyncio.run_coroutine_threadsafe(_close(closer), loop)

    async def _once(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        extra_seconds: float,
    ) -> Answer:
        import aiohttp

        session = await self._session()
        timeout = aiohttp.ClientTimeout(
            total=self.config.request_timeout + extra_seconds,
            sock_connect=self.config.connection_timeout,
        )
        try:
            async with session.request(
                method, self.config.address + path, data=body, headers=headers, timeout=timeout
            ) as response:
                payload = await response.read()
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise self._unavailable(error) from error
        if response.status >= 400:
            raise _error(response.status, payload)
        return Answer(payload, response.headers)

    def _unavailable(self, error: BaseException) -> StoreUnavailableError:
        reason = str(error) or type(error).__name__
        return StoreUnavailableError(
            f"The store at {self.config.address} cannot be reached ({reason}). "
            "Check that it runs and that the address is right."
        )

    async def _pause(self, seconds: float, *, watch_health: bool) -> None:
        """Sleep, but no longer than until the server is back."""
        # Why: the clients of one server must not all come back at the same moment.
        until = monotonic() + seconds * random.uniform(1.0, 1.1)
        steps = self.config.health_retry_delays if watch_health else ()
        if not steps:
            await asyncio.sleep(max(0.0, until - monotonic()))
            return
        for step in itertools.chain(steps, itertools.repeat(steps[-1])):
            remaining = until - monotonic()
            if remaining <= 0:
                return
            await asyncio.sleep(min(max(step, 0.01), remaining))
            if await self.is_healthy():
                return

    async def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        entry = self._sessions.get(loop)
        if entry is not None and not entry[0].closed:
            return entry[0]
        session = self._open_session()
        closer = _closing_with_loop(session)
        with self._lock:
            self._sessions[loop] = (session, closer)
        await anext(closer)
        return session

    def _open_session(self) -> aiohttp.ClientSession:
        import aiohttp

        token = self.config.token
        return aiohttp.ClientSession(
            # Long polls hold a connection each, so their number is not limited.
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"authorization": f"Bearer {token}"} if token else None,
        )


async def _closing_with_loop(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Close the session when this generator is closed, dropped, or its loop shuts down.

    Why: event loops close their asynchronous generators before they end, which is the one moment
    when connections of a client that nobody closed can still be closed cleanly.
    """
    try:
        yield
    finally:
        await session.close()


async def _close(closer: AsyncGenerator[None, None]) -> None:
    await closer.aclose()


def _error(status: int, payload: bytes) -> Exception:
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        body = None
    error = error_from_wire(status, body)
    if status in RETRYABLE_STATUSES and not isinstance(error, StoreUnavailableError):
        return StoreUnavailableError(str(error))
    return error
