"""Learning at once that somebody else committed: a blocking read of the event stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from redis import exceptions
from redis.asyncio import Redis

from agentlightning.errors import AgentLightningError
from agentlightning.store.collections.redis.lanes import ANSWER_SECONDS
from agentlightning.store.collections.redis.server import RedisServer, connect

logger = logging.getLogger(__name__)

_BLOCK_MILLISECONDS: Final = 20_000
"""How long one read waits; shorter than ANSWER_SECONDS, which notice a dead peer."""
_PAUSE_SECONDS: Final = 0.5
_OWN_PAUSE_SECONDS: Final = 0.002
_AT_ONCE: Final = 1000


class Watch:
    """Follows the stream on a connection of its own until it is stopped.

    Args:
        server: Whose loop and prefix are used.
        connection: Arguments of `connect`.
        writer: The name under which this store commits; its own events wake nobody.
        notify: Called on the server's loop when there is something new.
    """

    def __init__(
        self,
        server: RedisServer,
        connection: tuple[str, dict[str, Any]],
        writer: str,
        notify: Callable[[], None],
    ) -> None:
        self._server = server
        self._connection = connection
        self._writer = writer.encode()
        self._notify = notify
        self._stream = server.base + "events"

    async def follow(self) -> None:
        """Follow until cancelled; a lost connection is opened again."""
        position = await self._last()
        # What was committed before this moment is not waited for.
        self._notify()
        client = connect(*self._connection)
        try:
            while True:
                try:
                    position = await self._read(client, position)
                except (exceptions.RedisError, OSError):
                    logger.debug("lost the event stream, reading on soon", exc_info=True)
                    await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            await client.aclose()

    async def _last(self) -> str:
        while True:
            try:
                seq = await self._server.command("HGET", self._server.base + "meta", "seq")
            except AgentLightningError:
                logger.warning("cannot watch the redis server, trying again", exc_info=True)
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return f"{int(seq or 0)}-0"

    async def _read(self, client: Redis, position: str) -> str:
        """Wait for entries beyond a position, tell of them, and return the new position."""
        async with asyncio.timeout(ANSWER_SECONDS):
            answer: Any = await client.execute_command(
                "XREAD", "COUNT", _AT_ONCE, "BLOCK", _BLOCK_MILLISECONDS, "STREAMS",
                self._stream, position,
            )  # fmt: skip
        if not answer:
            return position
        rows = _rows(answer)
        if any(self._writer not in _values(fields) for _, fields in rows):
            self._notify()
        else:
            # Perf: a busy store would wake itself at each of its own commits.
            await asyncio.sleep(_OWN_PAUSE_SECONDS)
        return rows[-1][0].decode()


def _rows(answer: Any) -> list[tuple[bytes, Any]]:
    """Return the one stream's entries, in whichever protocol and version they came."""
    streams: Any = list(answer.values()) if isinstance(answer, dict) else answer
    rows: Any = streams[0] if isinstance(answer, dict) else streams[0][1]
    # redis-py wraps the entries of a stream once more in its dict form.
    while rows and isinstance(rows[0], list) and isinstance(rows[0][0], list | tuple):
        rows = rows[0]
    return cast("list[tuple[bytes, Any]]", rows)


def _values(fields: Any) -> Any:
    return fields.values() if isinstance(fields, dict) else fields[1::2]
