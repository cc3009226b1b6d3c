"""Connections of the store's client: a pool for each event loop, safe across threads and forks."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator
from typing import Final

from agentlightning._internal.clock import monotonic
from agentlightning.store.http.connection import BrokenConnectionError, HttpConnection, connect

__all__ = ["ConnectionPools", "Pool"]

IDLE_SECONDS: Final = 25.0
"""How long an unused connection is kept; servers of ours keep it for 30 seconds."""

MAX_IDLE: Final = 256


class Pool:
    """Connections of one event loop to one server.

    Long polls hold a connection each, so only the number of idle ones is limited.
    """

    def __init__(self, address: str, connection_timeout: float) -> None:
        self._address = address
        self._timeout = connection_timeout
        self._idle: list[tuple[HttpConnection, float]] = []
        self._busy: set[HttpConnection] = set()
        self._closed = False
        self.recovery: asyncio.Task[None] | None = None
        """The one task that looks whether the server is back, while somebody waits for that."""

    async def take(self, *, fresh: bool = False) -> HttpConnection:
        """Return an open connection: the one used last, or a new one.

        Raises:
            OSError: The server cannot be reached.
        """
        oldest = monotonic() - IDLE_SECONDS
        while self._idle and not fresh:
            connection, since = self._idle.pop()
            if connection.reusable and since >= oldest:
                self._busy.add(connection)
                return connection
            connection.close()
        connection = await connect(self._address, self._timeout)
        if self._closed:
            connection.close()
            raise BrokenConnectionError("the client was closed")
        self._busy.add(connection)
        return connection

    def give_back(self, connection: HttpConnection) -> None:
        """Keep a connection for the next request, or close it if that is not possible."""
        self._busy.discard(connection)
        if connection.reusable and not self._closed and len(self._idle) < MAX_IDLE:
            self._idle.append((connection, monotonic()))
        else:
            connection.close()

    async def close(self) -> None:
        """Close every connection; requests that are under way fail."""
        self._closed = True
        if self.recovery is not None:
            self.recovery.cancel()
        for connection in (*self._busy, *(kept for kept, _ in self._idle)):
            connection.close()
        self._idle.clear()
        # Why: transports end in the loop's next turn, which must still come.
        await asyncio.sleep(0)


class ConnectionPools:
    """The pools of one client. A forked child has none of its parent's connections."""

    def __init__(self, address: str, connection_timeout: float) -> None:
        self._address = address
        self._timeout = connection_timeout
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pools: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[Pool, AsyncGenerator[None, None]]
        ] = weakref.WeakKeyDictionary()

    async def here(self) -> Pool:
        """Return the running loop's pool."""
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid():
            # Two processes that write into one connection would get each other's answers.
            self._reset()
        entry = self._pools.get(loop)
        if entry is not None:
            return entry[0]
        pool = Pool(self._address, self._timeout)
        closer = _closing_with_loop(pool)
        with self._lock:
            self._pools[loop] = (pool, closer)
        await anext(closer)
        return pool

    async def close(self) -> None:
        """Close the connections of every loop; later requests open new ones."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            entries = list(self._pools.items())
            self._pools.clear()
        here = asyncio.get_running_loop()
        for loop, (_, closer) in entries:
            if loop is here:
                await closer.aclose()
            elif not loop.is_closed():
                asyncio.run_coroutine_threadsafe(_close(closer), loop)


async def _closing_with_loop(pool: Pool) -> AsyncGenerator[None, None]:
    """Close the pool when this generator is closed, dropped, or its loop shuts down.

    Why: event loops close their asynchronous generators before they end, which is the one moment
    when connections of a client that nobody closed can still be closed cleanly.
    """
    try:
        yield
    finally:
        await pool.close()


async def _close(closer: AsyncGenerator[None, None]) -> None:
    await closer.aclose()
