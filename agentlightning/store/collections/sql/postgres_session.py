"""One step's view of a PostgreSQL database, in as few round trips as can be.

A step that only looks needs no transaction. One that writes reads rollouts without a lock at first,
and is written and committed by one statement that makes sure that they are what they were. If they
are not, or if the step needs other locks, it is run again in a transaction with locks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import select

from agentlightning.store.collections.changes import Changes, Reply
from agentlightning.store.collections.sql import schema
from agentlightning.store.collections.sql.postgres_connection import PostgresConnection
from agentlightning.store.collections.sql.postgres_errors import DRIVER_ERRORS, is_loss
from agentlightning.store.collections.sql.postgres_functions import CLAIM, LOCK, READ
from agentlightning.store.collections.sql.postgres_writer import PostgresWriter
from agentlightning.store.collections.sql.records import ATTEMPTS, ROLLOUTS, WORKERS
from agentlightning.store.collections.sql.sequence import events_text
from agentlightning.store.collections.sql.session import SqlSession
from agentlightning.store.collections.sql.statement import Executor, Statement, first
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, StoreEvent

R = TypeVar("R")

_READ: Final = f"SELECT * FROM {READ.name}($1)"
_LOCK: Final = f"SELECT * FROM {LOCK.name}($1)"
_CLAIM: Final = f"SELECT * FROM {CLAIM.name}($1, $2)"
_resources = schema.resources.c
_NEWEST_ID: Final = Statement(
    select(_resources.resources_id).order_by(_resources.update_time.desc()).limit(1)
)


class PostgresSession(SqlSession):
    """A step's questions and writes on one connection.

    Args:
        executor: The connection.
        writes: The step may write: rollouts that it reads are locked, or looked at again.
        hopeful: Nobody else is likely to change these rollouts meanwhile: they are read without a
            lock, and the step fails as a conflict if somebody did.
    """

    def __init__(
        self, executor: PostgresConnection, *, writes: bool = True, hopeful: bool = False
    ) -> None:
        super().__init__(executor, writes=writes)
        self._hopeful = hopeful
        self.postgres = executor
        self._writer = PostgresWriter(executor, self.cache, self.sink)
        self._newest_id: tuple[str | None] | None = None
        self.marker = ""
        """The step's events as they are stored, by which a commit can be told later."""
        self.announcements: Sequence[StoreEvent] = ()
        """The events that were written."""
        self.doubt: Exception | None = None
        """What broke off the statement that was writing and committing all at once."""

    async def do(self, work: Callable[[Executor], R], *, write: bool) -> R:
        if self._writes:
            # Whether an id is in line, and the like, must stay true until the step is written.
            self._writer.begin()
        return await super().do(work, write=write)

    async def find_rollouts(self, rollout_ids: Sequence[str]) -> dict[str, Rollout]:
        if not self._writes:
            return await super().find_rollouts(rollout_ids)
        known = self.cache.rollouts
        missing = [key for key in rollout_ids if known.get(key) is None]
        if missing and self._hopeful and not self.postgres.in_transaction:
            rows = self.postgres.fetch(_READ, missing)
            self._note(rows)
            self._writer.seen.update((row["rollout"]["rollout_id"], row["version"]) for row in rows)
        elif missing:
            self._writer.begin()
            self._note(self.postgres.fetch(_LOCK, missing))
        found = ((key, known.get(key)) for key in rollout_ids)
        return {key: rollout for key, rollout in found if rollout is not None}

    def _note(self, rows: Sequence[Any]) -> None:
        """Keep what the functions of the database found."""
        cache, executor = self.cache, self.postgres
        for row in rows:
            if row["rollout"] is None:
                continue
            # The first column of a table's row is its ordinal.
            (rollout,) = ROLLOUTS.decode(executor, [row["rollout"][1:]])
            key = rollout.rollout_id
            cache.rollouts.put(key, rollout)
            if row["number"] is not None:
                cache.sequence_ids.put(key, row["number"])
            attempt = row["attempt"]
            latest = None if attempt is None else ATTEMPTS.decode(executor, [attempt[1:]])[0]
            cache.latest.put(key, latest)
            if row["worker"] is not None:
                (worker,) = WORKERS.decode(executor, [row["worker"][1:]])
                cache.workers.put(worker.worker_id, worker)

    async def find_attempt(self, rollout_id: str, attempt_id: str) -> Attempt | None:
        latest = self.cache.latest.get(rollout_id)
        if self._writes and (latest is None or latest.attempt_id != attempt_id):
            # Nobody looks at earlier attempts again, so the rollout must be locked.
            self._writer.begin()
        return await super().find_attempt(rollout_id, attempt_id)

    async def find_newest_resources(self) -> ResourcesUpdate | None:
        if self._writes:
            self._writer.begin()
        return await super().find_newest_resources()

    async def find_newest_resources_id(self) -> str | None:
        if self._newest_id is None:
            self._newest_id = (first(self.executor, _NEWEST_ID),)
        return self._newest_id[0]

    async def find_queued(
        self, limit: int, offset: int = 0, metadata: Mapping[str, Any] | None = None
    ) -> Sequence[str]:
        if self._writes:
            self._writer.begin()
        if metadata is not None or not self._writes:
            return await super().find_queued(limit, offset, metadata)
        rows = self.postgres.fetch(_CLAIM, limit, offset)
        self._note(rows)
        places = self.cache.queued
        for row in rows:
            places.put(row["id"], row["place"])
            self._newest_id = (row["newest"],)
        return [row["id"] for row in rows]

    async def find_reply(self, key: str) -> Reply | None:
        if self._writes:
            self._writer.begin()
        return await super().find_reply(key)

    async def apply(self, changes: Changes) -> None:
        if not any(getattr(changes, name) for name in Changes.__slots__):
            return
        self.announcements = changes.events
        self.marker = events_text(changes.events) if changes.events else ""
        try:
            await super().apply(changes)
        except DRIVER_ERRORS as error:
            if self._writer.in_one_go and is_loss(error):
                # Written or not, the step's result stands: whoever looks into it needs that.
                self.doubt = error
                return
            raise
