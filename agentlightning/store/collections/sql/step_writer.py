"""Writing what one step of the store wants written, in as few statements as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, delete, insert

from agentlightning.store.collections.changes import REPLY_SECONDS, Changes, Reply
from agentlightning.store.collections.kinds import DuplicatedPrimaryKeyError
from agentlightning.store.collections.sql import schema
from agentlightning.store.collections.sql.cache import UNKNOWN, RecordCache
from agentlightning.store.collections.sql.contents import ContentSink
from agentlightning.store.collections.sql.records import (
    ATTEMPTS,
    RESOURCE_VERSIONS,
    RESOURCES,
    ROLLOUTS,
    SPANS,
    WORKERS,
)
from agentlightning.store.collections.sql.sequence import SqlJournal
from agentlightning.store.collections.sql.statement import Executor, Statement, upsert
from agentlightning.store.collections.sql.text import to_text
from agentlightning.store.collections.sql.totals import Totals, counts_with_events
from agentlightning.types import Attempt, Rollout, Worker

_q, _replies = schema.rollout_queue.c, schema.replies.c

_UNQUEUE_AT: Final = Statement(
    delete(schema.rollout_queue).where(_q.ordinal == bindparam("place")), "place"
)
_UNQUEUE: Final = Statement(delete(schema.rollout_queue).where(_q.value == bindparam("key")), "key")
_QUEUE: Final = Statement(insert(schema.rollout_queue).values(value=bindparam("key")), "key")
_PUT_NUMBER: Final = upsert(schema.span_sequence_ids, ("key", "value"), ("key",))

_PUT_REPLY: Final = Statement(
    insert(schema.replies).values(
        key=bindparam("reply"), time=bindparam("time"), refs=bindparam("refs")
    ),
    "reply",
    "time",
    "refs",
)
_PRUNE_REPLIES: Final = Statement(
    delete(schema.replies).where(_replies.time < bindparam("before")), "before"
)
_PUT_WORKER: Final = upsert(schema.workers, (*WORKERS.fields, "body"), WORKERS.keys)


class StepWriter:
    """Writes changes on one connection, and notes in the cache what is stored then.

    Args:
        executor: The connection.
        cache: What is known of the database.
        sink: What is known of its contents.
    """

    def __init__(self, executor: Executor, cache: RecordCache, sink: ContentSink) -> None:
        self._executor = executor
        self._cache = cache
        self._sink = sink
        self._replies_pruned = 0.0

    def write(self, changes: Changes) -> None:
        """Write everything.

        Raises:
            DuplicatedPrimaryKeyError: A new record, or the reply, is there already.
        """
        totals = Totals()
        self._write_rollouts(changes, totals)
        self._write_attempts(changes, totals)
        self._write_spans(changes, totals)
        self._write_others(changes, totals)
        self._write_queue(changes)
        if changes.reply is not None:
            self._keep(changes.reply)
        # Last, for this is where writers that work side by side wait for one another.
        together = changes.events and counts_with_events(self._executor)
        counts = totals.take() if together else ()
        totals.flush(self._executor, len(changes.events))
        if changes.events:
            self._write_events(changes, counts)

    def _write_rollouts(self, changes: Changes, totals: Totals) -> None:
        cache, executor = self._cache, self._executor
        if changes.new_rollouts:
            ROLLOUTS.insert(executor, list(changes.new_rollouts.values()), totals)
            for key, rollout in changes.new_rollouts.items():
                cache.rollouts.put(key, rollout)
                cache.latest.put(key, None)
                cache.sequence_ids.put(key, 0)
        if changes.rollouts:
            old = self._known_rollouts(list(changes.rollouts))
            pairs = [(old[key], new) for key, new in changes.rollouts.items()]
            ROLLOUTS.update(executor, pairs, totals)
            for rollout in changes.rollouts.values():
                cache.note(rollout)

    def _write_attempts(self, changes: Changes, totals: Totals) -> None:
        cache, executor = self._cache, self._executor
        if changes.removed_attempts:
            ATTEMPTS.delete(executor, changes.removed_attempts, totals)
            for attempt in changes.removed_attempts:
                cache.latest.drop(attempt.rollout_id)
        if changes.new_attempts:
            ATTEMPTS.insert(executor, list(changes.new_attempts.values()), totals)
            for attempt in changes.new_attempts.values():
                self._note_latest(attempt)
        if changes.attempts:
            ATTEMPTS.update(executor, self._attempt_pairs(changes), totals)
            for attempt in changes.attempts.values():
                self._note_latest(attempt)

    def _known_rollouts(self, keys: list[str]) -> dict[str, Rollout]:
        known = {key: self._cache.rollouts.get(key) for key in keys}
        found = {key: rollout for key, rollout in known.items() if rollout is not None}
        missing = [key for key in keys if key not in found]
        if missing:
            stored = ROLLOUTS.by_key(self._executor, [(key,) for key in missing])
            found |= {row.rollout_id: row for row in stored}
        return found

    def _attempt_pairs(self, changes: Changes) -> list[tuple[Attempt, Attempt]]:
        pairs: list[tuple[Attempt, Attempt]] = []
        for key, new in changes.attempts.items():
            old = self._cache.latest.get(key[0])
            if old is None or old.attempt_id != key[1]:
                (old,) = ATTEMPTS.by_key(self._executor, [key])
            pairs.append((old, new))
        return pairs

    def _note_latest(self, attempt: Attempt) -> None:
        latest = self._cache.latest
        known = latest.get(attempt.rollout_id, UNKNOWN)
        if known is not UNKNOWN and (known is None or known.sequence_id <= attempt.sequence_id):
            latest.put(attempt.rollout_id, attempt)

    def _write_spans(self, changes: Changes, totals: Totals) -> None:
        if changes.new_spans:
            SPANS.insert_into(self._executor, changes.new_spans, totals, self._sink)
        if changes.sequence_ids:
            self._executor.change_many(_PUT_NUMBER, list(changes.sequence_ids.items()))
            for key, number in changes.sequence_ids.items():
                self._cache.sequence_ids.put(key, number)

    def _write_others(self, changes: Changes, totals: Totals) -> None:
        executor, cache = self._executor, self._cache
        if changes.workers:
            new = [key for key in changes.workers if cache.workers.get(key) is None]
            for key, worker in changes.workers.items():
                old = cache.workers.get(key)
                if old is not None:
                    WORKERS.update(executor, [(old, worker)], totals)
                cache.workers.put(key, worker)
            self._add_workers([changes.workers[key] for key in new], totals)
        if changes.superseded:
            RESOURCE_VERSIONS.insert(executor, changes.superseded, totals)
        for update in changes.resources:
            old = RESOURCES.by_key(executor, [(update.resources_id,)])
            if old:
                RESOURCES.update(executor, [(old[0], update)], totals)
            else:
                RESOURCES.insert(executor, [update], totals)
            cache.newest_known = False

    def _add_workers(self, workers: Sequence[Worker], totals: Totals) -> None:
        """Insert workers that were not there when the step looked."""
        for worker in workers:
            if WORKERS.by_key(self._executor, [(worker.worker_id,)]):
                self._executor.change(_PUT_WORKER, WORKERS.codec.row(worker))
            else:
                WORKERS.insert(self._executor, [worker], totals)

    def _write_queue(self, changes: Changes) -> None:
        places = self._cache.queued
        seen: list[tuple[int]] = []
        others: list[tuple[str]] = []
        for key in changes.unqueued:
            place = places.get(key)
            places.drop(key)
            if place is None:
                others.append((key,))
            else:
                seen.append((place,))
        if seen:
            self._executor.change_many(_UNQUEUE_AT, seen)
        if others:
            self._executor.change_many(_UNQUEUE, others)
        if changes.queued:
            self._executor.change_many(_QUEUE, [(key,) for key in changes.queued])

    def _write_events(self, changes: Changes, counts: Sequence[tuple[str, int]]) -> None:
        cache = self._cache
        before = cache.last_seq
        if before is None:
            before = SqlJournal.before(self._executor, len(changes.events))
        SqlJournal.add(self._executor, changes.events, before, counts)
        cache.last_seq = before + len(changes.events)

    def _keep(self, reply: Reply) -> None:
        row = (reply.key, reply.time, to_text(reply.refs, "Reply"))
        try:
            self._executor.change(_PUT_REPLY, row)
        except self._executor.duplicate_error as error:
            raise DuplicatedPrimaryKeyError("A call with this key was answered before.") from error
        if reply.time > self._replies_pruned + REPLY_SECONDS / 8:
            self._replies_pruned = reply.time
            self._executor.change(_PRUNE_REPLIES, (reply.time - REPLY_SECONDS,))
