"""Transactions, tried again as MongoDB's drivers have to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from agentlightning._internal.clock import monotonic
from agentlightning.store.collections.mongo.connection import Opened
from agentlightning.store.collections.mongo.sessions import Obstacle

R = TypeVar("R")

READ: Final = ReadConcern("snapshot")
WRITE: Final = WriteConcern("majority")

_TRANSIENT: Final = "TransientTransactionError"
_UNKNOWN: Final = "UnknownTransactionCommitResult"
_COMMIT_SECONDS: Final = 30.0
"""How long a transaction is tried again when others, or elections, get in its way."""
_SHORTEST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.1


async def in_transaction(opened: Opened, work: Callable[[AsyncClientSession], Awaitable[R]]) -> R:
    """Do work in a transaction, from the start whenever the server asks for that.

    The pauses are shorter than those of the driver's own `with_transaction`: our transactions
    take milliseconds, and whoever comes second learns it at its first statement.
    """
    end = monotonic() + _COMMIT_SECONDS
    pause = _SHORTEST_PAUSE
    obstacle = Obstacle(opened.sessions)
    async with opened.sessions.one() as session:
        while True:
            try:
                await session.start_transaction(READ, WRITE)
                result = await work(session)
                await _commit(session, end)
            except PyMongoError as error:
                if session.in_transaction:
                    await session.abort_transaction()
                if not error.has_error_label(_TRANSIENT) or monotonic() > end:
                    raise
            else:
                return result
            await obstacle.look()
            await asyncio.sleep(random.uniform(0.0, pause))
            pause = min(pause * 1.5, _LONGEST_PAUSE)


async def _commit(session: AsyncClientSession, end: float) -> None:
    while True:
        try:
            await session.commit_transaction()
        except PyMongoError as error:
            # Committing once more is safe: the server knows whether it has done so.
            if not error.has_error_label(_UNKNOWN) or monotonic() > end:
                raise
            await asyncio.sleep(_SHORTEST_PAUSE)
        else:
            return
