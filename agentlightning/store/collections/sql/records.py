"""Rows of one table as records: found by key, inserted, changed and removed, with their totals.

What hangs on a record goes with it: a rollout's tags, a span's contents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel
from sqlalchemy import Select, Table, and_, bindparam, delete, insert, select, update

from agentlightning.store.collections.kinds import DuplicatedPrimaryKeyError
from agentlightning.store.collections.sql import contents, schema, tags
from agentlightning.store.collections.sql.codec import RecordCodec, Row
from agentlightning.store.collections.sql.span_codec import SpanCodec
from agentlightning.store.collections.sql.statement import Executor, Statement, in_list
from agentlightning.store.collections.sql.totals import Totals
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, Worker

M = TypeVar("M", bound=BaseModel)
Key = tuple[Any, ...]

_BATCH: Final = 5000


class Records(Generic[M]):
    """The statements of one table, shared by all databases of the process.

    Args:
        table: A table of `schema`.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        # SQLAlchemy's names are of a class of their own.
        self._name = str(table.name)
        self.model: type[M] = table.info["model"]
        self.keys: tuple[str, ...] = table.info["keys"]
        self.fields: tuple[str, ...] = table.info["fields"]
        self.codec: RecordCodec[M] = RecordCodec(self.model, self.fields)
        self._getter: Callable[[M], Any] = attrgetter(*self.keys)
        columns = (*self.fields, "body")
        self._insert = Statement(
            insert(table).values({name: bindparam(name) for name in columns}), *columns
        )
        self._updates: dict[tuple[str, ...], Statement] = {}
        names = [f"key_{key}" for key in self.keys]
        self._by_key = and_(*(table.c[key] == bindparam(f"key_{key}") for key in self.keys))
        self._delete = Statement(delete(table).where(self._by_key), *names)
        self._get = Statement(self.select_all().where(self._by_key), *names)
        self._get_many = Statement(
            self.select_all().where(in_list(table.c[self.keys[0]], "values")), "values"
        )

    def select_all(self) -> Select[Any]:
        """Return a query of all rows, in the form that `decode` takes."""
        return select(*(self.table.c[name] for name in (*self.fields, "body")))

    def key(self, record: M) -> Key:
        """Return a record's primary key."""
        key = self._getter(record)
        return key if len(self.keys) > 1 else (key,)

    def decode(self, executor: Executor, rows: Sequence[Row]) -> list[M]:
        """Return the records of rows."""
        del executor
        record = self.codec.record
        return [record(row) for row in rows]

    def by_key(self, executor: Executor, keys: Sequence[Key]) -> list[M]:
        """Return the records that exist, in no particular order."""
        if len(self.keys) == 1 and len(keys) > 1:
            return self.by_first([key[0] for key in keys], executor)
        rows = [row for key in keys for row in executor.rows(self._get, key)]
        return self.decode(executor, rows)

    def by_first(self, values: Sequence[str], executor: Executor) -> list[M]:
        """Return the records whose first key field has one of these values."""
        rows: list[Row] = []
        for start in range(0, len(values), _BATCH):
            batch = executor.array(values[start : start + _BATCH])
            rows.extend(executor.rows(self._get_many, (batch,)))
        return self.decode(executor, rows)

    def insert(self, executor: Executor, items: Sequence[M], totals: Totals) -> None:
        """Add records.

        Raises:
            DuplicatedPrimaryKeyError: One of them is there already, or is given twice.
        """
        rows = self._encode(executor, items)
        try:
            executor.change_many(self._insert, rows)
        except executor.duplicate_error as error:
            raise DuplicatedPrimaryKeyError(
                f"{self.model.__name__} is there already, or is given twice; update it instead."
            ) from error
        self._count(totals, len(items))
        self._inserted(executor, items, totals)

    def _encode(self, executor: Executor, items: Sequence[M]) -> list[Row]:
        del executor
        row = self.codec.row
        return [row(item) for item in items]

    def _count(self, totals: Totals, count: int) -> None:
        totals.add(self._name, count)

    def _inserted(self, executor: Executor, items: Sequence[M], totals: Totals) -> None:
        """Add what hangs on new records."""

    def update(self, executor: Executor, pairs: Iterable[tuple[M, M]], totals: Totals) -> None:
        """Change records from what they are to what they shall be; the keys are equal."""
        by_columns: dict[tuple[str, ...], list[Row]] = {}
        for old, new in pairs:
            columns = self.codec.changed(old, new)
            fields = new.__dict__
            values = [fields[name] for name in columns]
            if not self.codec.same_body(old, new):
                columns.append("body")
                values.append(self.codec.body(new))
            if columns:
                values += self.key(new)
                by_columns.setdefault(tuple(columns), []).append(values)
            self._changed(executor, old, new, totals)
        for changed, rows in by_columns.items():
            executor.change_many(self._update_of(changed), rows)

    def _changed(self, executor: Executor, old: M, new: M, totals: Totals) -> None:
        """Change what hangs on a record."""

    def _update_of(self, columns: tuple[str, ...]) -> Statement:
        """Return the statement that changes some columns.

        Perf: naming only what changes spares the indexes of the other columns.
        """
        known = self._updates.get(columns)
        if known is None:
            values = {name: bindparam(f"new_{name}") for name in columns}
            known = self._updates[columns] = Statement(
                update(self.table).where(self._by_key).values(values),
                *(f"new_{name}" for name in columns),
                *(f"key_{key}" for key in self.keys),
            )
        return known

    def delete(self, executor: Executor, items: Sequence[M], totals: Totals) -> None:
        """Remove records that are there."""
        self._removing(executor, items, totals)
        executor.change_many(self._delete, [self.key(item) for item in items])
        self._count(totals, -len(items))
        self._removed(executor, items)

    def _removing(self, executor: Executor, items: Sequence[M], totals: Totals) -> None:
        """Remove what hangs on records that are still there."""

    def _removed(self, executor: Executor, items: Sequence[M]) -> None:
        """Remove what hangs on records that are gone."""


class RolloutRecords(Records[Rollout]):
    """Rollouts: counted by status and mode, found by their metadata."""

    def __init__(self) -> None:
        super().__init__(schema.rollouts)

    def _count(self, totals: Totals, count: int) -> None:
        del totals, count

    def _inserted(self, executor: Executor, items: Sequence[Rollout], totals: Totals) -> None:
        for item in items:
            totals.rollout(None, item)
        tags.add_tags(executor, items)

    def _changed(self, executor: Executor, old: Rollout, new: Rollout, totals: Totals) -> None:
        if old.status != new.status or old.mode != new.mode:
            totals.rollout(old, new)
        if old.metadata is not new.metadata:
            tags.change_tags(executor, old, new)

    def _removing(self, executor: Executor, items: Sequence[Rollout], totals: Totals) -> None:
        for item in items:
            totals.rollout(item, None)
            tags.remove_tags(executor, item)


class SpanRecords(Records[Span]):
    """Spans, whose long values are kept apart."""

    def __init__(self) -> None:
        super().__init__(schema.spans)
        self.spans = SpanCodec(self.fields)
        columns = schema.spans.c
        self._left = Statement(
            select(columns.ordinal).where(columns.rollout_id == bindparam("owner")).limit(1),
            "owner",
        )

    def decode(self, executor: Executor, rows: Sequence[Row]) -> list[Span]:
        return self.spans.records(rows, lambda names: contents.load(executor, names))

    def insert_into(
        self,
        executor: Executor,
        items: Sequence[Span],
        totals: Totals,
        sink: contents.ContentSink,
    ) -> None:
        """Add spans; the sink knows which contents are there."""
        row = self.spans.row
        rows = [row(item, sink) for item in items]
        try:
            executor.change_many(self._insert, rows)
        except executor.duplicate_error as error:
            raise DuplicatedPrimaryKeyError(
                "A span is there already, or is given twice; update it instead."
            ) from error
        sink.flush(executor)
        self._count(totals, len(items))

    def _encode(self, executor: Executor, items: Sequence[Span]) -> list[Row]:
        sink = contents.ContentSink()
        rows: list[Row] = [self.spans.row(item, sink) for item in items]
        sink.flush(executor)
        return rows

    def update(
        self, executor: Executor, pairs: Iterable[tuple[Span, Span]], totals: Totals
    ) -> None:
        """Change spans; the former contents stay with the rollout until its spans are removed."""
        del totals
        new = [pair[1] for pair in pairs]
        columns = (*self.fields, "body")
        rows = [
            (*row, *self.key(item))
            for row, item in zip(self._encode(executor, new), new, strict=True)
        ]
        executor.change_many(self._update_of(columns), rows)

    def _removed(self, executor: Executor, items: Sequence[Span]) -> None:
        for rollout_id in dict.fromkeys(item.rollout_id for item in items):
            if not executor.rows(self._left, (rollout_id,)):
                contents.release(executor, rollout_id)


ROLLOUTS: Final = RolloutRecords()
SPANS: Final = SpanRecords()
ATTEMPTS: Final[Records[Attempt]] = Records(schema.attempts)
RESOURCES: Final[Records[ResourcesUpdate]] = Records(schema.resources)
RESOURCE_VERSIONS: Final[Records[ResourcesUpdate]] = Records(schema.resource_versions)
WORKERS: Final[Records[Worker]] = Records(schema.workers)
