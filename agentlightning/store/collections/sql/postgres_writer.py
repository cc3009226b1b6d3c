"""Writing a step's changes to PostgreSQL by one call of a function in the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from asyncpg import SerializationError, UniqueViolationError

from agentlightning.store.collections.changes import Changes
from agentlightning.store.collections.kinds import DuplicatedPrimaryKeyError
from agentlightning.store.collections.sql.cache import RecordCache
from agentlightning.store.collections.sql.contents import CONTENTS_LOCK, ContentSink
from agentlightning.store.collections.sql.postgres_connection import PostgresConnection, lock_key
from agentlightning.store.collections.sql.postgres_events import number_events
from agentlightning.store.collections.sql.postgres_functions import APPLY
from agentlightning.store.collections.sql.records import ATTEMPTS, ROLLOUTS, SPANS, WORKERS
from agentlightning.store.collections.sql.sequence import events_text
from agentlightning.store.collections.sql.step_writer import StepWriter
from agentlightning.store.collections.sql.tags import tags_of
from agentlightning.store.collections.sql.text import to_text
from agentlightning.store.collections.sql.totals import Totals
from agentlightning.types import Rollout

Row = tuple[Any, ...]

_APPLY: Final = f"SELECT {APPLY.name}({', '.join(f'${place}' for place in range(1, 24))})"


def _stored(rows: Iterable[Sequence[Any]]) -> list[Row]:
    """Return rows for the table's row type: in front is the ordinal, which the database gives."""
    return [(None, *row) for row in rows]


class PostgresWriter(StepWriter):
    """Writes changes; the rare kinds statement by statement, as for any database.

    Args:
        executor: The connection.
        cache: What the step has read.
        sink: What is known of the database's contents.
    """

    def __init__(self, executor: PostgresConnection, cache: RecordCache, sink: ContentSink) -> None:
        super().__init__(executor, cache, sink)
        self._postgres = executor
        self.seen: dict[str, str] = {}
        """Versions of rollouts that were read without a lock; writing makes sure of them."""
        self.in_one_go = False
        """The last write was begun as a transaction of its own."""

    def write(self, changes: Changes) -> None:
        if self._is_rare(changes):
            self.begin()
            super().write(changes)
            return
        self.in_one_go = not self._postgres.in_transaction
        totals = Totals()
        new_contents, owners, spans = self._spans(changes, totals)
        parameters = (
            list(self.seen),
            list(self.seen.values()),
            *self._rollouts(changes, totals),
            *self._attempts(changes, totals),
            spans,
            new_contents,
            owners,
            lock_key(CONTENTS_LOCK),
            list(changes.sequence_ids.items()),
            *self._workers(changes),
            *self._queue(changes),
            self._reply(changes),
        )
        body = events_text(changes.events) if changes.events else ""
        try:
            ((last,),) = self._postgres.fetch_finally(
                _APPLY, *parameters, totals.take(), len(changes.events), body
            )
        except UniqueViolationError as error:
            raise DuplicatedPrimaryKeyError(
                "A record, or a reply, is there already; look again."
            ) from error
        number_events(changes.events, last)

    def begin(self) -> None:
        """Begin a transaction, unless one is open.

        Raises:
            SerializationError: It would be too late, for rollouts were read without a lock.
        """
        if self.seen:
            raise SerializationError("the step needs locks; run it again with locks")
        self._postgres.begin()

    def _is_rare(self, changes: Changes) -> bool:
        """Return whether there is something that the function does not write."""
        if changes.removed_attempts or changes.resources or changes.superseded:
            return True
        known = self._cache.rollouts
        return any(
            (old := known.get(key)) is None or old.metadata is not new.metadata
            for key, new in changes.rollouts.items()
        )

    def _rollouts(self, changes: Changes, totals: Totals) -> Iterable[Any]:
        new = changes.new_rollouts.values()
        tags = [
            (rollout.rollout_id, tag)
            for rollout in new
            if rollout.metadata
            for tag in tags_of(rollout)
        ]
        for rollout in new:
            totals.rollout(None, rollout)
        changed: list[Row] = []
        for key, rollout in changes.rollouts.items():
            old = self._cache.rollouts.get(key)
            assert old is not None, "rare otherwise"
            totals.rollout(old, rollout)
            changed.append(_changed_row(old, rollout))
        yield _stored(map(ROLLOUTS.codec.row, new))
        yield [owner for owner, _ in tags]
        yield [(*tag, None) for _, tag in tags]
        yield changed

    def _attempts(self, changes: Changes, totals: Totals) -> Iterable[list[Row]]:
        row = ATTEMPTS.codec.row
        totals.add("attempts", len(changes.new_attempts))
        yield _stored(map(row, changes.new_attempts.values()))
        yield _stored(map(row, changes.attempts.values()))

    def _spans(
        self, changes: Changes, totals: Totals
    ) -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[Row]]:
        row, sink = SPANS.spans.row, self._sink
        spans = _stored(row(span, sink) for span in changes.new_spans)
        totals.add("spans", len(spans))
        return *sink.take(), spans

    def _workers(self, changes: Changes) -> Iterable[list[Row]]:
        """Return known workers as they were and as they are, and those that are new."""
        row = WORKERS.codec.row
        known = self._cache.workers
        pairs = [(known.get(key), changes.workers[key]) for key in sorted(changes.workers)]
        yield _stored(row(old) for old, _ in pairs if old is not None)
        yield _stored(row(new) for old, new in pairs if old is not None)
        yield _stored(row(new) for old, new in pairs if old is None)

    def _queue(self, changes: Changes) -> Iterable[list[Any]]:
        """Return the places to clear, the ids to take out wherever they are, and those to add."""
        seen = self._cache.queued
        places: list[int] = []
        others: list[str] = []
        for key in changes.unqueued:
            place = seen.get(key)
            # An id may be in line twice, of which one place is known.
            seen.drop(key)
            if place is None:
                others.append(key)
            else:
                places.append(place)
        yield places
        yield others
        yield list(changes.queued)

    def _reply(self, changes: Changes) -> list[Row]:
        reply = changes.reply
        return [] if reply is None else [(reply.key, reply.time, to_text(reply.refs, "Reply"))]


def _changed_row(old: Rollout, new: Rollout) -> Row:
    codec = ROLLOUTS.codec
    body = None if codec.same_body(old, new) else codec.body(new)
    return (None, *codec.values(new.__dict__), body)
