"""Running steps: read, write all at the end, and start anew when somebody else was faster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar

from agentlightning._internal.aio import CommittedThenCancelledError
from agentlightning._internal.clock import monotonic
from agentlightning.errors import StoreUnavailableError
from agentlightning.store.collections.base import DuplicatedPrimaryKeyError
from agentlightning.store.collections.mongo.block import (
    Block,
    StaleReadError,
    WritesDirectlyError,
)
from agentlightning.store.collections.mongo.commit import (
    Committer,
    check_versions,
    write_under_lock,
)
from agentlightning.store.collections.mongo.connection import Connection, Opened
from agentlightning.store.collections.mongo.lock import PartitionLock
from agentlightning.store.collections.mongo.plan import Plan
from agentlightning.store.collections.mongo.repair import queue_what_waits
from agentlightning.store.collections.mongo.transaction import READ, WRITE, in_transaction

R = TypeVar("R")
Work = Callable[[Block], Awaitable[R]]

_GIVE_UP_SECONDS: Final = 60.0
_LONGEST_PAUSE: Final = 0.1


class Steps:
    """How everything reaches the database.

    With transactions, steps run side by side. What each read is checked when it writes; one that was overtaken runs
    again, one such at a time, so that those that touch the same rollout do not starve each other. Without,
    a step holds the partition's lock from its first read on.

    Args:
        connection: Where the data is.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.writer = connection.writer
        self.lock = PartitionLock(self.writer)
        self._committer = Committer()
        self._again = asyncio.Lock()
        self._claims = asyncio.Lock()
        connection.on_open = self._repair

    async def _repair(self, opened: Opened) -> None:
        if not opened.has_transactions:
            async with self.lock.held(opened):
                await queue_what_waits(Block(opened))

    async def operate(self, block: Block | None, work: Work[R], *, write: bool) -> R:
        """Do an operation of a collection, in a block or by itself."""

        async def within(opened: Opened) -> R:
            if block is not None:
                return await work(block)
            if write:
                return await self._directly(opened, work)
            return await work(Block(opened))

        if block is not None and write and not block.direct:
            raise WritesDirectlyError
        return await self.connection.run(within)

    async def _directly(self, opened: Opened, work: Work[R]) -> R:
        if opened.has_transactions:
            return await in_transaction(opened, lambda session: work(Block(opened, session)))
        async with self.lock.held(opened):
            return await work(Block(opened))

    async def execute(self, step: Work[R]) -> R:
        """Run a step that may write.

        Raises:
            DuplicatedPrimaryKeyError: It insists on adding what is there.
            StoreUnavailableError: Others were faster again and again.
        """

        async def attempts(opened: Opened) -> R:
            end = monotonic() + _GIVE_UP_SECONDS
            overtaken = 0
            while True:
                try:
                    if not overtaken:
                        return await self._once(opened, step, overtaken)
                    async with self._again:
                        return await self._once(opened, step, overtaken)
                except WritesDirectlyError:
                    return await self._directly(opened, step)
                except StaleReadError as stale:
                    overtaken += 1
                    if stale.duplicate and overtaken > 1:
                        raise DuplicatedPrimaryKeyError(
                            "One of the records is there already; update it instead."
                        ) from stale
                if monotonic() > end:
                    raise StoreUnavailableError("Others kept changing these records; try again.")
                pause = min(0.001 * 2**overtaken, _LONGEST_PAUSE)
                await asyncio.sleep(random.uniform(0.0, pause))

        return await self.connection.run(attempts)

    async def _once(self, opened: Opened, step: Work[R], overtaken: int) -> R:
        async with AsyncExitStack() as stack:
            block = Block(opened, direct=False, overtaken=overtaken, stack=stack)
            if not opened.has_transactions:
                # What is written one by one is only whole for who reads under the lock.
                block.lock = await stack.enter_async_context(self.lock.held(opened))
            try:
                return await step(block)
            except (StaleReadError, WritesDirectlyError):
                raise
            except Exception:
                # What it objects to may be half of somebody else's change.
                await check_versions(opened, {key: block.seen[key] for key in block.held})
                raise

    async def commit(self, block: Block, plan: Plan) -> None:
        """Write what a step wants written."""
        if block.lock is None:
            await self._committer.commit(block.opened, plan)
        else:
            await write_under_lock(block.opened, plan, block.lock)

    async def claim(self, block: Block) -> None:
        """Let no other step of this process look at the queue before this one has ended."""
        if block.stack is not None and not block.claims:
            await block.stack.enter_async_context(self._claims)
            block.claims = True

    @asynccontextmanager
    async def open_block(self) -> AsyncGenerator[Block]:
        """Open a block that the caller keeps, from any event loop: a transaction, or the lock."""
        opened = await self.connection.run(_itself)
        scope = self._scope(opened)

        async def leave(error: BaseException | None) -> None:
            kind = None if error is None else type(error)
            await self.connection.run(lambda _: scope.__aexit__(kind, error, None))

        try:
            block = await self.connection.run(lambda _: scope.__aenter__())
        except CommittedThenCancelledError as late:
            await leave(late)
            raise
        try:
            yield block
        except BaseException as error:
            await leave(error)
            raise
        await leave(None)

    @asynccontextmanager
    async def _scope(self, opened: Opened) -> AsyncGenerator[Block]:
        if not opened.has_transactions:
            async with self.lock.held(opened):
                yield Block(opened)
            return
        async with opened.sessions.one() as session:
            await session.start_transaction(READ, WRITE)
            yield Block(opened, session)
            await session.commit_transaction()


async def _itself(opened: Opened) -> Opened:
    return opened
