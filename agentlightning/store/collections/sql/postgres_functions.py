"""Functions in the database: what a step reads first, and what it writes, in one round trip each.

Their names hold a digest of their texts, so that processes of different versions each call what
they were written for. Rows travel as arrays of the tables' own row types.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Table

from agentlightning.store.collections.changes import REPLY_SECONDS
from agentlightning.store.collections.sql import schema
from agentlightning.store.collections.sql.records import ATTEMPTS, ROLLOUTS, SPANS, WORKERS, Records
from agentlightning.store.collections.sql.sequence import KEPT_EVENTS, PRUNE_EVERY
from agentlightning.store.collections.sql.statement import Executor
from agentlightning.store.collections.sql.totals import EVENTS


class Function(NamedTuple):
    """A function of the database."""

    name: str
    definition: str


# Perf: making a plan takes three times as long as running it. So each connection makes one for any
# number of rows, and by indexes only, for it is kept while small tables become large ones.
_PLANS: Final = """
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
"""


def _function(purpose: str, text: str) -> Function:
    name = f"agentlightning_{purpose}_{hashlib.sha256((text + _PLANS).encode()).hexdigest()[:8]}"
    return Function(name, f"CREATE FUNCTION {name}{text} LANGUAGE plpgsql {_PLANS}")


_HANGS_ON: Final = """
    LEFT JOIN LATERAL (
      SELECT a AS row, a.worker_id, a.attempt_id, a.xmin AS version FROM attempts a
      WHERE a.rollout_id = r.rollout_id ORDER BY a.sequence_id DESC LIMIT 1
    ) latest ON true
    LEFT JOIN span_sequence_ids n ON n.key = r.rollout_id
"""
_VERSION: Final = "concat_ws('/', r.xmin, latest.attempt_id, latest.version, n.value)"
"""Changes whenever a rollout, its latest attempt or its number does: `xmin` is who wrote a row."""
_FOUND: Final = f"""
  RETURN QUERY
    SELECT {{place}} r, latest.row, w, {_VERSION}, coalesce(n.value, (
      SELECT 0 WHERE NOT EXISTS (SELECT FROM spans s WHERE s.rollout_id = r.rollout_id)
    ))
    FROM {{source}}
    {_HANGS_ON}
    LEFT JOIN workers w ON w.worker_id = latest.worker_id
"""
"""What hangs on rollouts; no number when there is none although there are spans.

Asked after locking: a statement sees what was committed before it began, not while it waited."""

_LOCK: Final = "PERFORM FROM rollouts WHERE rollout_id = ANY({}) ORDER BY rollout_id FOR UPDATE;"


def _reading(lock: str) -> str:
    return f"""(ids TEXT[]) RETURNS TABLE (
  rollout rollouts, attempt attempts, worker workers, version TEXT, number BIGINT
) AS $$
#variable_conflict use_column
BEGIN
  {lock}
  {_FOUND.format(place="", source="rollouts r")} WHERE r.rollout_id = ANY(ids);
END $$"""


READ: Final = _function("read", _reading(""))
"""Returns rollouts, with their latest attempts, workers and numbers of spans."""
LOCK: Final = _function("lock", _reading(_LOCK.format("ids")))
"""Locks rollouts, then returns the same."""

CLAIM: Final = _function(
    "claim",
    f"""(most BIGINT, skip BIGINT) RETURNS TABLE (
  place BIGINT, id TEXT, newest TEXT,
  rollout rollouts, attempt attempts, worker workers, version TEXT, number BIGINT
) AS $$
#variable_conflict use_column
DECLARE
  line rollout_queue[];
  ids TEXT[];
BEGIN
  line := ARRAY(
    SELECT q FROM rollout_queue q ORDER BY q.ordinal LIMIT most OFFSET skip FOR UPDATE SKIP LOCKED
  );
  ids := ARRAY(SELECT value FROM unnest(line));
  {_LOCK.format("ids")}
  {
        _FOUND.format(
            place="q.ordinal, q.value, latest_resources.id,",
            source="unnest(line) q LEFT JOIN rollouts r ON r.rollout_id = q.value",
        )
    }
    LEFT JOIN LATERAL (
      SELECT resources_id AS id FROM resources ORDER BY update_time DESC LIMIT 1
    ) latest_resources ON true
    ORDER BY q.ordinal;
END $$""",
)
"""Locks the front of the queue, but for what others have locked, and the rollouts in it; returns
them likewise, and the snapshot that was published last.
"""


def _insert(table: Table, given: str, *, order: str = "") -> str:
    names = [column.name for column in table.c if column is not table.autoincrement_column]
    columns = ", ".join(names)
    order = f" ORDER BY {order}" if order else ""
    return f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM unnest({given}){order}"


def _replace(records: Records[Any], given: str) -> str:
    """Return what writes records over those of the same keys; without a body, that stays."""
    fields = [name for name in records.fields if name not in records.keys]
    values = ", ".join(f"{name} = n.{name}" for name in fields)
    match = " AND ".join(f"t.{key} = n.{key}" for key in records.keys)
    return (
        f"UPDATE {records.table.name} t SET {values}, body = coalesce(n.body, t.body) "
        f"FROM unnest({given}) n WHERE {match}"
    )


_WORK: Final = ("status", "current_rollout_id", "current_attempt_id")


def _of(row: str, names: Sequence[str]) -> str:
    return ", ".join(f"{row}.{name}" for name in names)


def _merge_workers() -> str:
    """Return what writes of workers only what changed: nothing keeps others from changing more."""
    fields = [*(name for name in WORKERS.fields if name not in WORKERS.keys), "body"]
    # What a worker does is one thing: the rollout of one claim and the attempt of another is none.
    groups = {name: (name,) for name in fields} | dict.fromkeys(_WORK, _WORK)
    values = ", ".join(
        f"{name} = CASE WHEN ({_of('n', group)}) IS DISTINCT FROM ({_of('o', group)}) "
        f"THEN n.{name} ELSE t.{name} END"
        for name, group in groups.items()
    )
    return (
        f"UPDATE workers t SET {values} FROM unnest(new_workers) n "
        "JOIN unnest(old_workers) o ON o.worker_id = n.worker_id WHERE t.worker_id = n.worker_id"
    )


def _overwrite(names: Sequence[str]) -> str:
    return ", ".join(f"{name} = excluded.{name}" for name in names)


APPLY: Final = _function(
    "apply",
    f"""(
  seen TEXT[], versions TEXT[],
  new_rollouts rollouts[], tagged TEXT[], tags rollout_tags[], changed_rollouts rollouts[],
  new_attempts attempts[], changed_attempts attempts[],
  new_spans spans[], texts contents[], owners content_owners[], contents_lock BIGINT,
  numbers span_sequence_ids[],
  old_workers workers[], new_workers workers[], added_workers workers[],
  places BIGINT[], unqueued TEXT[], queued TEXT[],
  reply replies[], counts totals[], event_count BIGINT, event_body TEXT
) RETURNS BIGINT AS $$
#variable_conflict use_column
DECLARE
  fresh BIGINT := 0;
  last BIGINT;
BEGIN
  IF cardinality(seen) > 0 THEN
    {_LOCK.format("seen")}
    IF EXISTS (
      SELECT FROM unnest(seen, versions) AS s(id, version)
      LEFT JOIN rollouts r ON r.rollout_id = s.id {_HANGS_ON}
      WHERE {_VERSION} <> s.version
    ) THEN
      RAISE EXCEPTION 'a rollout has changed since it was read' USING ERRCODE = '40001';
    END IF;
  END IF;
  IF cardinality(new_rollouts) > 0 THEN
    {_insert(schema.rollouts, "new_rollouts")};
    IF cardinality(tagged) > 0 THEN
      INSERT INTO rollout_tags (key, value, ordinal)
        SELECT t.key, t.value, r.ordinal FROM unnest(tagged, tags) AS t(id, key, value, ordinal)
        JOIN rollouts r ON r.rollout_id = t.id;
    END IF;
  END IF;
  IF cardinality(changed_rollouts) > 0 THEN
    {_replace(ROLLOUTS, "changed_rollouts")};
  END IF;
  IF cardinality(new_attempts) > 0 THEN
    {_insert(schema.attempts, "new_attempts")};
  END IF;
  IF cardinality(changed_attempts) > 0 THEN
    {_replace(ATTEMPTS, "changed_attempts")};
  END IF;
  IF cardinality(new_spans) > 0 THEN
    {_insert(SPANS.table, "new_spans")};
  END IF;
  IF cardinality(owners) > 0 THEN
    PERFORM pg_advisory_xact_lock_shared(contents_lock);
    {_insert(schema.contents, "texts", order="name")} ON CONFLICT DO NOTHING;
    {_insert(schema.content_owners, "owners", order="rollout_id, name")} ON CONFLICT DO NOTHING;
  END IF;
  IF cardinality(numbers) > 0 THEN
    {_insert(schema.span_sequence_ids, "numbers")}
      ON CONFLICT (key) DO UPDATE SET value = excluded.value;
  END IF;
  IF cardinality(new_workers) > 0 THEN
    {_merge_workers()};
  END IF;
  IF cardinality(added_workers) > 0 THEN
    WITH put AS (
      {_insert(schema.workers, "added_workers", order="worker_id")}
      ON CONFLICT (worker_id) DO UPDATE SET {_overwrite((*WORKERS.fields[1:], "body"))}
      RETURNING xmax = 0 AS is_new -- Who was there had to be locked, and has a number in xmax.
    ) SELECT count(*) INTO fresh FROM put WHERE is_new;
  END IF;
  IF cardinality(places) > 0 THEN
    DELETE FROM rollout_queue WHERE ordinal = ANY(places);
  END IF;
  IF cardinality(unqueued) > 0 THEN
    DELETE FROM rollout_queue WHERE value = ANY(unqueued);
  END IF;
  IF cardinality(queued) > 0 THEN
    INSERT INTO rollout_queue (value) SELECT unnest(queued);
  END IF;
  IF cardinality(reply) > 0 THEN
    {_insert(schema.replies, "reply")};
    DELETE FROM replies WHERE key IN (
      SELECT key FROM replies WHERE time < reply[1].time - {REPLY_SECONDS}
      LIMIT 10 FOR UPDATE SKIP LOCKED
    );
  END IF;
  -- Last, for this is where writers that work side by side wait for one another; everybody begins
  -- with the number of events, so that events become visible in the order of their numbers.
  INSERT INTO totals (name, value) VALUES ('{EVENTS}', event_count)
    ON CONFLICT (name) DO UPDATE SET value = totals.value + excluded.value
    RETURNING value INTO last;
  INSERT INTO totals (name, value)
    SELECT name, value FROM unnest(counts) UNION ALL SELECT 'workers', fresh WHERE fresh > 0
    ON CONFLICT (name) DO UPDATE SET value = totals.value + excluded.value;
  IF event_count > 0 THEN
    INSERT INTO events (seq, count, body) VALUES (last, event_count, event_body);
    IF last / {PRUNE_EVERY} <> (last - event_count) / {PRUNE_EVERY} THEN
      DELETE FROM events WHERE seq <= last - {KEPT_EVENTS};
    END IF;
  END IF;
  RETURN last;
END $$""",
)
"""Writes everything that a step wants written; returns the last event's number.

Fails as a conflict if a rollout that the step has seen without a lock is not what it was.
"""

_FUNCTIONS: Final = (READ, LOCK, CLAIM, APPLY)
_PRESENT: Final = """
SELECT proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = current_schema() AND proname LIKE 'agentlightning\\_%'
"""


def define(executor: Executor) -> None:
    """Create the functions that are not there, in the transaction that prepares the tables."""
    from sqlalchemy import text

    present = {name for (name,) in executor.select(text(_PRESENT))}
    for function in _FUNCTIONS:
        if function.name not in present:
            executor.run(function.definition)
