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
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from agentlightning._internal.clock import monotonic
from agentlightning.errors import StoreUnavailableError
from agentlightning.store.http.connection import BrokenConnectionError, HttpConnection, Response
from agentlightning.store.http.errors import RETRYABLE_STATUSES, error_from_wire
from agentlightning.store.http.operation import IDEMPOTENCY_HEADER, RUN_ID_HEADER
from agentlightning.store.http.pool import ConnectionPools
from agentlightning.store.idempotency import current_idempotency_key

__all__ = ["Answer", "Transport", "TransportConfig", "new_key"]

logger = logging.getLogger(__name__)

STREAM_SILENCE_SECONDS: Final = 60.0
"""Longest silence of an event stream before it counts as dead; servers send comments."""

MAX_PROBE_SECONDS: Final = 2.0
"""Longest time a look whether the server is back may take."""


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


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer."""

    body: bytes
    headers: Mapping[str, str]
    """By lower-case name."""

    def json(self) -> Any:
        """Return the decoded body."""
        return orjson.loads(self.body)


class Transport:
    """Sends requests to one store server."""

    def __init__(self, config: TransportConfig) -> None:
        self.config = config
        self._pools = ConnectionPools(config.address, config.connection_timeout)
        parts = urlsplit(config.address)
        self._prefix = parts.path
        lines = [f"host: {parts.netloc.rpartition('@')[2]}", "accept-encoding: identity"]
        if config.token:
            lines.append(f"authorization: Bearer {config.token}")
        if config.run_id is not None:
            lines.append(f"{RUN_ID_HEADER}: {config.run_id}")
        self._common = "\r\n".join(lines)
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
        data = self._compose(method, path, body, _json_lines(method, key))
        seconds = self.config.request_timeout + extra_seconds
        delays = iter(self.config.retry_delays)
        deadline: float | None = None
        while True:
            try:
                return await self._once(data, seconds)
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
        data = self._compose("GET", "/v1/agl/health", None, "")
        try:
            await self._once(data, seconds or self.config.request_timeout)
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
        lines = "".join(f"\r\n{name}: {value}" for name, value in headers.items())
        data = self._compose("GET", path, None, lines)
        pool = await self._pools.here()
        connection: HttpConnection | None = None
        try:
            connection = await pool.take(fresh=True)
            async with asyncio.timeout(self.config.request_timeout):
                head, body = await connection.stream(data)
                if head.status != 200:
                    raise _error(head.status, await body.read())
            yield _lines(body)
        except OSError as error:
            raise self._unavailable(error) from error
        finally:
            if connection is not None:
                pool.give_back(connection)

    async def close(self) -> None:
        """Close the connections of every loop; later requests open new ones."""
        await self._pools.close()

    def _compose(self, method: str, path: str, body: bytes | None, lines: str) -> bytes:
        length = f"\r\ncontent-length: {len(body)}" if body is not None else ""
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._common}{lines}{length}\r\n\r\n"
        # Tokens may be any text; as everywhere in HTTP, each byte of it stands for itself.
        return head.encode() + (body or b"")

    async def _once(self, data: bytes, seconds: float) -> Answer:
        try:
            async with asyncio.timeout(seconds):
                response = await self._exchange(data)
        except OSError as error:
            raise self._unavailable(error) from error
        self._was_reached = True
        if response.status >= 300:
            raise _error(response.status, response.body)
        return Answer(response.body, response.headers)

    async def _exchange(self, data: bytes) -> Response:
        pool = await self._pools.here()
        connection = await pool.take()
        try:
            return await connection.request(data)
        except BrokenConnectionError:
            # A server may close a connection that was idle just when it is used again.
            if not connection.used or connection.answering:
                raise
        finally:
            pool.give_back(connection)
        connection = await pool.take(fresh=True)
        try:
            return await connection.request(data)
        finally:
            pool.give_back(connection)

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


def _json_lines(method: str, key: str | None) -> str:
    if method == "GET":
        return ""
    return f"\r\ncontent-type: application/json\r\n{IDEMPOTENCY_HEADER}: {key or new_key()}"


async def _lines(body: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
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
