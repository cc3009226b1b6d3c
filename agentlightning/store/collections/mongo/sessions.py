"""The sessions that transactions take place in, and the end of those whose process died.

What a transaction has written is locked until it ends, and a server waits for a minute (its
`transactionLifetimeLimitSeconds`) before it ends that of a process that was killed. So every
store writes down which sessions it uses, and whoever finds that nothing moves any more ends the
transactions of the others. One that was alive after all is told to try again, and does.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import pymongo
from pymongo import AsyncMongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import OperationFailure, PyMongoError

from agentlightning._internal.clock import monotonic, now
from agentlightning.store.collections.mongo.layout import (
    PARTITION,
    PARTITIONS,
    SESSION_SECONDS,
    SESSIONS,
    Database,
    Document,
)

logger = logging.getLogger(__name__)

STUCK_SECONDS: Final = 3.0
"""How long nothing moves before the others' transactions are ended."""
_GOODBYE_SECONDS: Final = 1.0


class Sessions:
    """The sessions of one store, used again and again; only on its loop.

    Args:
        client: The driver's client.
        database: Where sessions are written down.
        partition: The partition whose transactions they are.
        writer: The store.
    """

    def __init__(
        self,
        client: AsyncMongoClient[Document],
        database: Database,
        partition: str,
        writer: str,
    ) -> None:
        self._client = client
        self._database = database
        self._partition = partition
        self._writer = writer
        self._free: list[tuple[AsyncClientSession, float]] = []

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[AsyncClientSession]:
        """Lend a session that nobody else has meanwhile; what is not committed is undone."""
        session, end = await self._take()
        try:
            yield session
        finally:
            if session.in_transaction:
                await session.abort_transaction()
            self._free.append((session, end))

    async def _take(self) -> tuple[AsyncClientSession, float]:
        while self._free:
            session, end = self._free.pop()
            if monotonic() < end:
                return session, end
            await session.end_session()
        session = self._client.start_session()
        await self._database[SESSIONS].insert_one(
            {
                "_id": session.session_id["id"],
                PARTITION: self._partition,
                "writer": self._writer,
                "created_at": datetime.fromtimestamp(now(), UTC),
            }
        )
        return session, monotonic() + SESSION_SECONDS

    async def progress(self) -> Document | None:
        """Return what changes with every commit."""
        return await self._database[PARTITIONS].find_one(
            {"_id": self._partition}, {"seq": 1, "o": 1}
        )

    async def end_others(self) -> None:
        """End the transactions that other stores have in this partition."""
        cursor = self._database[SESSIONS].find(
            {PARTITION: self._partition, "writer": {"$ne": self._writer}}, {"_id": 1}
        )
        others = [{"id": found["_id"]} async for found in cursor]
        if not others:
            return
        logger.warning("transactions make no progress, ending others", extra={"count": len(others)})
        try:
            await self._client.admin.command("killSessions", others)
        except OperationFailure:
            logger.warning("others' transactions could not be ended", exc_info=True)

    async def close(self) -> None:
        """End the sessions and forget them."""
        try:
            with pymongo.timeout(_GOODBYE_SECONDS):
                for session, _ in self._free:
                    await session.end_session()
                if self._free:
                    await self._database[SESSIONS].delete_many(
                        {PARTITION: self._partition, "writer": self._writer}
                    )
        except PyMongoError:
            logger.debug("sessions left to the server", exc_info=True)
        self._free.clear()


class Obstacle:
    """What keeps a transaction from getting through: others who work, or one that is dead.

    Args:
        sessions: The store's sessions.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._seen: Document | None = None
        self._since = monotonic()

    async def look(self) -> None:
        """Called after each attempt that failed; ends others' transactions when nothing moves."""
        if monotonic() - self._since < STUCK_SECONDS / 2:
            return
        progress = await self._sessions.progress()
        if progress == self._seen:
            await self._sessions.end_others()
        self._seen, self._since = progress, monotonic()
