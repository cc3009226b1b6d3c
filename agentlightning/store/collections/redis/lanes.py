"""Commands of many callers on few connections: what comes while one waits is sent together."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from redis.asyncio import Redis

ANSWER_SECONDS: Final = 30.0
"""After how long a connection that says nothing is given up."""
_LANES: Final = 2
"""Connections, so that a long answer holds up only half of the others."""
_MOST_TOGETHER: Final = 64

Command = tuple[str | int | bytes, ...]


class Lanes:
    """Carries commands to the server, together with those that come at the same time.

    Perf: one write and one read for many commands; each by itself takes several system calls.

    Args:
        client: Who sends them; used on its event loop only.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._waiting: deque[tuple[Command, asyncio.Future[Any]]] = deque()
        self._open: set[asyncio.Task[None]] = set()

    async def send(self, *command: str | int | bytes) -> Any:
        """Carry a command out and return its reply.

        Raises:
            RedisError: As the server or the connection says.
            TimeoutError: The server did not answer.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((command, answer))
        if len(self._open) < min(_LANES, len(self._waiting)):
            lane = loop.create_task(self._drain())
            self._open.add(lane)
        return await answer

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._next_batch()
        finally:
            # At once, so that a command that comes now finds no lane that has stopped looking.
            task = asyncio.current_task()
            if task is not None:
                self._open.discard(task)

    async def _next_batch(self) -> None:
        count = min(len(self._waiting), _MOST_TOGETHER)
        batch = [self._waiting.popleft() for _ in range(count)]
        replies: list[Any]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                replies = await self._carry([command for command, _ in batch])
        except Exception as error:  # noqa: BLE001 - boundary: it is raised at each caller.
            replies = [error] * count
        for (_, answer), reply in zip(batch, replies, strict=True):
            if answer.done():
                continue
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)

    async def _carry(self, commands: list[Command]) -> list[Any]:
        if len(commands) == 1:
            return [await self._client.execute_command(*commands[0])]
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)
