"""All collections of one store in Redis: blocks that run side by side, and start over on conflict.

A block reads freely and writes nothing until it ends; then one script checks that nothing it read
has changed and writes everything. Where something has, the block is run again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from agentlightning._internal.clock import monotonic
from agentlightning.errors import AgentLightningError, ConflictError, StoreUnavailableError
from agentlightning.store.collections.base import (
    AtomicLabels,
    AtomicMode,
    LightningCollections,
)
from agentlightning.store.collections.redis.block import (
    NewestResources,
    RedisBlock,
    RedisTables,
)
from agentlightning.store.collections.redis.opening import prepare
from agentlightning.store.collections.redis.server import RedisServer
from agentlightning.store.collections.redis.session import ChangedMeanwhileError, Session
from agentlightning.store.collections.redis.watch import Watch

logger = logging.getLogger(__name__)

R = TypeVar("R")

_CONFLICT_SECONDS: Final = 20.0
"""How long a block is run again and again, and how often at least."""
_LEAST_RUNS: Final = 10
_LONGEST_PAUSE: Final = 0.05


class RedisLightningCollections(RedisTables):
    """Everything that a store keeps, in one database of a Redis or Valkey server.

    The connection is made by the first call. Calls may come from any thread and event loop.

    Args:
        url: As redis-py reads it.
        prefix: What the keys of this store begin with, in braces.
        client_kwargs: Further arguments of redis-py's asyncio client.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "agentlightning",
        client_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(self._run)
        client_kwargs = client_kwargs or {}
        self._connection = (url, client_kwargs)
        self._server = RedisServer(url, client_kwargs, f"{{{prefix}}}:", prepare)
        self._writer = secrets.token_hex(6)
        self._again = asyncio.Lock()
        self._newest = NewestResources()
        # A store that nobody closed takes its thread with it, also at the interpreter's end.
        self._finalize = weakref.finalize(self, RedisServer.close, self._server)

    async def _run(self, work: Callable[[Session], Awaitable[R]], *, write: bool) -> R:
        """Do one operation outside of a block as a block of its own."""
        return await self._server.run(lambda: self._transact(work, write=write))

    async def execute(
        self,
        callback: Callable[[LightningCollections], Awaitable[R]],
        *,
        mode: AtomicMode = "rw",
        snapshot: bool = False,
        commit: bool = False,
        labels: Sequence[AtomicLabels] | None = None,
        **kwargs: Any,
    ) -> R:
        async def work(session: Session) -> R:
            return await callback(RedisBlock(session, self._newest))

        return await self._run(work, write=mode != "r")

    async def _transact(self, work: Callable[[Session], Awaitable[R]], *, write: bool) -> R:
        if not write:
            return await work(Session(self._server, tracks=False))
        try:
            return await self._attempt(work)
        except ChangedMeanwhileError:
            # One at a time, so that those who start over do not get into each other's way.
            async with self._again:
                return await self._repeat(work)

    async def _repeat(self, work: Callable[[Session], Awaitable[R]]) -> R:
        began, runs = monotonic(), 0
        while True:
            try:
                return await self._attempt(work)
            except ChangedMeanwhileError as error:
                runs += 1
                if runs >= _LEAST_RUNS and monotonic() - began > _CONFLICT_SECONDS:
                    raise StoreUnavailableError(
                        f"The step was run {runs + 1} times, and each time somebody else changed "
                        f"what it had read ({' '.join(error.args)}); try again with less load."
                    ) from error
            await asyncio.sleep(random.uniform(0, min(0.001 * 2**runs, _LONGEST_PAUSE)))

    async def _attempt(self, work: Callable[[Session], Awaitable[R]]) -> R:
        session = Session(self._server, tracks=True)
        try:
            result = await work(session)
        except BaseException:
            await self._abandon(session)
            raise
        try:
            await self._settle(session)
        except ChangedMeanwhileError:
            self._newest.entry = None
            raise
        return result

    async def _settle(self, session: Session) -> None:
        """Commit, to the end once it has begun, since nobody could tell what came of half of it."""
        commit = asyncio.create_task(session.commit(self._writer))
        while not commit.done():
            try:
                await asyncio.wait([commit])
            except asyncio.CancelledError:
                continue
        try:
            commit.result()
        except BaseException:
            await self._abandon(session)
            raise

    async def _abandon(self, session: Session) -> None:
        """Give back what was reserved; without a server that happens by itself."""
        try:
            await session.release()
        except AgentLightningError:
            logger.debug("reservations will run out by themselves", exc_info=True)

    @asynccontextmanager
    async def atomic(
        self,
        mode: AtomicMode = "rw",
        snapshot: bool = False,
        commit: bool = False,
        labels: Sequence[AtomicLabels] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[LightningCollections]:
        """Open a block; see `LightningCollections.atomic`.

        Raises:
            ConflictError: At the end: somebody changed what the block had read. Nothing was
                written; `execute` runs the block again by itself.
        """
        session = Session(self._server, tracks=mode != "r")
        try:
            yield RedisBlock(session, self._newest)
        except BaseException:
            await self._server.run(lambda: self._abandon(session))
            raise
        try:
            await self._server.run(lambda: self._settle(session))
        except ChangedMeanwhileError as error:
            self._newest.entry = None
            raise ConflictError(
                f"Somebody else changed what the block had read ({' '.join(error.args)}); nothing "
                "was written. Run the block again, or give it to execute(), which does."
            ) from error

    def watch(self, notify: Callable[[], None]) -> Callable[[], None] | None:
        """Call `notify` whenever another store object has committed events, until the returned
        callable is called.
        """
        following = Watch(self._server, self._connection, self._writer, notify)
        return self._server.io.spawn(following.follow)

    def give_up(self) -> None:
        """End all patience with a server that does not answer, before closing."""
        self._server.give_up()

    async def close(self) -> None:
        self._finalize()
