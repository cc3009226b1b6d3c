"""Learning of what others committed: from a change stream, or by looking again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from pymongo.errors import OperationFailure, PyMongoError

from agentlightning.errors import AgentLightningError
from agentlightning.store.collections.mongo.connection import Connection, Opened
from agentlightning.store.collections.mongo.layout import EVENTS, PARTITIONS

logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0
_AWAIT_MILLISECONDS: Final = 10_000
_SHORTEST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.25
"""Between two looks where the server has no change streams."""


async def follow(connection: Connection, writer: str, notify: Callable[[], None]) -> None:
    """Call `notify` whenever somebody but `writer` appended events, until cancelled."""
    opened: Opened | None = None
    while opened is None:
        try:
            opened = await connection.opened()
        except (PyMongoError, AgentLightningError):
            await asyncio.sleep(_RETRY_SECONDS)
    # A store that nobody closed is not kept alive by its own watch.
    del connection
    streams = opened.has_transactions
    while True:
        try:
            if streams:
                await _stream(opened, writer, notify)
            else:
                await _tail(opened, notify)
        except OperationFailure:
            logger.warning("no change stream, looking at the journal instead", exc_info=True)
            streams = False
        except PyMongoError:
            logger.warning("watch of MongoDB interrupted, trying again", exc_info=True)
        await asyncio.sleep(_RETRY_SECONDS)


async def _stream(opened: Opened, writer: str, notify: Callable[[], None]) -> None:
    others = {
        "operationType": "insert",
        "fullDocument.partition_id": opened.partition,
        "fullDocument.writer": {"$ne": writer},
    }
    stream = await opened.database[EVENTS].watch(
        [{"$match": others}], max_await_time_ms=_AWAIT_MILLISECONDS
    )
    async with stream:
        # What was committed before the stream began is not in it.
        notify()
        async for _ in stream:
            notify()


async def _tail(opened: Opened, notify: Callable[[], None]) -> None:
    last = None
    pause = _SHORTEST_PAUSE
    while True:
        found = await opened.database[PARTITIONS].find_one(
            {"_id": opened.partition}, {"_id": 0, "seq": 1}
        )
        seq = None if found is None else found["seq"]
        if seq != last:
            last, pause = seq, _SHORTEST_PAUSE
            notify()
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
