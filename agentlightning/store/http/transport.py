"""Requests of the store's client: repeats, outages, and errors.

Every request that is sent here may be repeated: it either changes nothing, or carries one
idempotency key on each of its repeats. It may be used from any number of event loops and threads.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from typing import Any, Final

import aiohttp
import orjson
from multidict import istr
from yarl import URL

from agentlightning._internal.clock import monotonic
from agentlightning.errors import StoreUnavailableError
from agentlightning.store.http.errors import RETRYABLE_STATUSES, error_from_wire
from agentlightning.store.http.operation import IDEMPOTENCY_HEADER, RUN_ID_HEADER
from agentlightning.store.http.pool import SessionPools, Verify
from agentlightning.store.idempotency import current_idempotency_key

__all__ = ["Answer", "Transport", "TransportConfig", "new_key"]

logger = logging.getLogger(__name__)

STREAM_SILENCE_SECONDS: Final = 60.0
"""Longest silence of an event stream before it counts as dead; servers send comments."""

MAX_PROBE_SECONDS: Final = 2.0
"""Longest time a look whether the server is back may take."""

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""Longest line of an event stream."""

_KNOWN_URLS: Final = 256
"""How many addresses are kept parsed: those of routes without ids, which are asked for often."""

_LARGE_BODY_BYTES: Final = 512 * 1024
"""Larger bodies are sent in pieces, so that the loop has turns between them."""

_KEY: Final = istr(IDEMPOTENCY_HEADER)
_TYPE: Final = istr("content-type")


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
    outage_seconds: float = 60.0
    """How long a call waits for a server that it has reached before and that went away."""
    token: str | None = None
    run_id: str | None = None
    verify: Verify = True
    """Whom an `https` server may be."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer."""

    body: bytes
    headers: Mapping[str, str]
    """By name, in whatever case."""

    def json(self) -> Any:
        """Return the decoded body."""
        return orjson.loads(self.body)


class Transport:
    """Sends requests to one store server."""

    def __init__(self, config: TransportConfig) -> None:
        self.config = config
        headers = {"accept-encoding": "identity"}
        if config.token:
            headers["authorization"] = f"Bearer {config.token}"
        if config.run_id is not None:
            headers[RUN_ID_HEADER] = config.run_id
        self._pools = SessionPools(headers, config.connection_timeout, config.verify)
        root = str(URL(config.address, encoded=True).with_user(None)).rstrip("/")
        self._url = lru_cache(_KNOWN_URLS)(partial(_address, root))
        self._was_reached = False

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        extra_seconds: float = 0.0,
        key: str | None = None,
    ) -> Answer:
        """Send a request, and again as the configuration allows while the store is unavailable.

        Anything but a GET carries an idempotency key.

        Args:
            method: HTTP method.
            path: Path and query below the address, already quoted.
            body: JSON text.
            extra_seconds: How long the server may wait on purpose.
            key: The idempotency key, where the call is part of a longer one.

        Raises:
            StoreUnavailableError: The store cannot be reached or says so, also at the last try.
            StoreError: What the store raised, as the class it raised.
        """
        headers = _headers(method, key)
        seconds = self.config.request_timeout + extra_seconds
        delays = iter(self.config.retry_delays)
        deadline: float | None = None
        while True:
            try:
                return await self._once(method, path, body, headers, seconds)
            except StoreUnavailableError as error:
                delay = next(delays, None)
                if delay is None:
                    raise
                logger.info(
                    "store unavailable, will try again",
                    extra={"path": path, "delay_seconds": delay, "reason": str(error)},
                )
                deadline = deadline or monotonic() + self.config.outage_seconds
                # A server that answers is not asked for its health, but given its time.
                answered = error.__cause__ is None
                await self._pause(delay, deadline, watch_health=not answered)

    async def is_healthy(self, *, seconds: float | None = None) -> bool:
        """Return whether the server answers, within `seconds` or else the request timeout."""
        seconds = seconds or self.config.request_timeout
        try:
            await self._once("GET", "/v1/agl/health", None, None, seconds)
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
        pool = await self._pools.here()
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(self.config.request_timeout):
                response = await pool.session.request(
                    "GET",
                    self._url(path),
                    headers=headers,
                    allow_redirects=False,
                    read_bufsize=MAX_LINE_BYTES // 2,
                )
                if response.status != 200:
                    raise _error(response.status, await response.read())
            yield _lines(response.content)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unavailable(error) from error
        finally:
            if response is not None:
                response.close()

    async def close(self) -> None:
        """Close the connections of every loop; later requests open new ones."""
        await self._pools.close()

    async def _once(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str] | None,
        seconds: float,
    ) -> Answer:
        try:
            async with asyncio.timeout(seconds):
                status, answer = await self._exchange(method, path, body, headers)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unavailable(error) from error
        self._was_reached = True
        if status >= 300:
            raise _error(status, answer.body)
        return answer

    async def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str] | None
    ) -> tuple[int, Answer]:
        pool = await self._pools.here()
        # A server may close a connection that was idle just when it is used again.
        tries = 2 if pool.was_answered else 1
        while True:
            tries -= 1
            data = BytesIO(body) if body and len(body) > _LARGE_BODY_BYTES else body
            try:
                response = await pool.session.request(
                    method,
                    self._url(path),
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                )
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
                pool.was_answered = False
                if not tries or isinstance(error, aiohttp.ClientConnectorError):
                    raise
            else:
                answer = Answer(await response.read(), response.headers)
                pool.was_answered = True
                return response.status, answer

    def _unavailable(self, error: BaseException) -> StoreUnavailableError:
        reason = str(error) or type(error).__name__
        return StoreUnavailableError(
            f"The store at {self.config.address} cannot be reached ({reason}). "
            "Check that it runs and that the address is right."
        )

    async def _pause(self, seconds: float, deadline: float, *, watch_health: bool) -> None:
        """Sleep, but no longer than until the server is back.

        A server that was reached before is waited for until `deadline`, because it may be on its
        way back; one that never answered may not exist.
        """
        # Why: the clients of one server must not all come back at the same moment.
        seconds *= random.uniform(1.0, 1.1)
        if not watch_health or not self.config.health_retry_delays:
            await asyncio.sleep(seconds)
            return
        if self._was_reached:
            seconds = max(seconds, deadline - monotonic())
        pool = await self._pools.here()
        if pool.recovery is None or pool.recovery.done():
            pool.recovery = asyncio.create_task(self._recover(seconds))
        await asyncio.wait({pool.recovery}, timeout=seconds)
        await asyncio.sleep(random.uniform(0, 0.02))

    async def _recover(self, seconds: float) -> None:
        """Look for the server until it is there; one task does so for all calls of a loop."""
        steps = self.config.health_retry_delays
        until = monotonic() + seconds
        for step in itertools.chain(steps, itertools.repeat(steps[-1])):
            await asyncio.sleep(max(step, 0.01))
            if monotonic() > until or await self.is_healthy(seconds=MAX_PROBE_SECONDS):
                return


def new_key() -> str:
    """Return the idempotency key that the caller gave, or a fresh one."""
    return current_idempotency_key() or os.urandom(16).hex()


def _address(root: str, path: str) -> URL:
    return URL(root + path, encoded=True)


def _headers(method: str, key: str | None) -> dict[str, str] | None:
    if method == "GET":
        return None
    return {_TYPE: "application/json", _KEY: key or new_key()}


async def _lines(body: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    while True:
        async with asyncio.timeout(STREAM_SILENCE_SECONDS):
            line = await body.readline()
        if not line:
            return
        yield line


def _error(status: int, payload: bytes) -> Exception:
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        body = None
    error = error_from_wire(status, body)
    if status in RETRYABLE_STATUSES and not isinstance(error, StoreUnavailableError):
        return StoreUnavailableError(str(error))
    return error
