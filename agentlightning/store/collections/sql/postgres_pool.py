"""The connections to one PostgreSQL server that a store keeps open, on one event loop.

Perf: SQLAlchemy's own pool takes 350 µs for each step that it hands a connection to, as long as
four statements; this one takes 5. It knows asyncpg and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import asyncpg

from agentlightning.errors import StoreUnavailableError
from agentlightning.store.collections.sql.postgres_errors import DRIVER_ERRORS, is_loss

_STATEMENTS: Final = 500


class PoolOptions(NamedTuple):
    """How a store uses connections."""

    schema: str | None = None
    """The schema that holds the tables, made as needed; None for the database's default."""
    size: int = 8
    """Connections kept open, and so the steps that run at once; one more hears of changes."""
    overflow: int = 0
    """Connections beyond that for peaks."""
    wait_seconds: float = 30.0
    """How long a step waits for a connection, and for a server that is away."""


class PostgresPool:
    """Connections that are lent to one step after the other, the last used first.

    Args:
        arguments: What asyncpg connects with.
        name: What the server shall call the connections.
        options: How many, and to which schema.
    """

    def __init__(self, arguments: Mapping[str, Any], name: str, options: PoolOptions) -> None:
        # Compiling a plan takes longer than running it, for all that a store asks.
        settings = {"application_name": name, "jit": "off"}
        if options.schema is not None:
            settings["search_path"] = options.schema
        self._arguments: dict[str, Any] = {
            **arguments,
            "server_settings": settings,
            "statement_cache_size": _STATEMENTS,
        }
        self._options = options
        self._free = asyncio.Semaphore(options.size + options.overflow)
        self._idle: list[Any] = []
        self._closed = False

    async def connect(self) -> Any:
        """Return a new connection, which belongs to the caller."""
        return await asyncpg.connect(**self._arguments)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Any]:
        """Lend a connection; a transaction that is left open is undone.

        A connection is thrown away when it was lost, and when the block was cancelled: what it
        was doing then, nobody knows.

        Raises:
            StoreUnavailableError: All connections were lent for `wait_seconds`.
        """
        if self._free.locked():
            await self._wait_in_line()
        else:
            # Perf: a time limit takes a task of its own.
            await self._free.acquire()
        connection: Any = None
        try:
            connection = self._take() or await self.connect()
            yield connection
            await _tidy(connection)
        except asyncio.CancelledError:
            _discard(connection)
            raise
        except Exception as error:
            if is_loss(error) or not await _is_tidied(connection):
                _discard(connection)
            raise
        finally:
            self._give_back(connection)
            self._free.release()

    async def _wait_in_line(self) -> None:
        try:
            await asyncio.wait_for(self._free.acquire(), self._options.wait_seconds)
        except TimeoutError:
            raise StoreUnavailableError(
                f"All {self._options.size + self._options.overflow} connections were busy for "
                f"{self._options.wait_seconds} s; give the store a larger pool_size."
            ) from None

    def _take(self) -> Any:
        """Return an idle connection, or None."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    def _give_back(self, connection: Any) -> None:
        if connection is None or connection.is_closed():
            return
        if self._closed or len(self._idle) >= self._options.size:
            connection.terminate()
        else:
            self._idle.append(connection)

    async def close(self) -> None:
        """Say goodbye on all idle connections; those that are lent end when they come back."""
        self._closed = True
        while self._idle:
            connection = self._idle.pop()
            try:
                await connection.close()
            except DRIVER_ERRORS:
                connection.terminate()


def _discard(connection: Any) -> None:
    if connection is not None:
        connection.terminate()


async def _tidy(connection: Any) -> None:
    if not connection.is_closed() and connection.is_in_transaction():
        await connection.execute("ROLLBACK")


async def _is_tidied(connection: Any) -> bool:
    """Undo an open transaction after an error; return whether that worked."""
    try:
        if connection is not None:
            await _tidy(connection)
    except DRIVER_ERRORS:
        return False
    except asyncio.CancelledError:
        _discard(connection)
        raise
    return True
