"""What is seldom asked of the tables: pages by ordinal, sizes, removal, and the contents' order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from pydantic import BaseModel
from sqlalchemy import bindparam, delete, func, select, text

from agentlightning.store.collections.kinds import BackendFault
from agentlightning.store.collections.sql import contents, schema
from agentlightning.store.collections.sql.records import ROLLOUTS, Records
from agentlightning.store.collections.sql.span_codec import piece_names
from agentlightning.store.collections.sql.statement import Executor, Statement, in_list
from agentlightning.store.collections.sql.totals import Totals, read_facets, read_totals

M = TypeVar("M", bound=BaseModel)

_PAGE: Final = 1000
_ROW_BYTES: Final = 200
"""What a span's columns and its entries in indexes take, about."""
_s, _a, _n = schema.spans.c, schema.attempts.c, schema.span_sequence_ids.c
_c, _o = schema.contents.c, schema.content_owners.c

_BYTES: Final = Statement(
    select(_s.rollout_id, func.sum(func.length(_s.body) + _ROW_BYTES))
    .where(in_list(_s.rollout_id, "owners"))
    .group_by(_s.rollout_id),
    "owners",
)
_CONTENT_BYTES: Final = Statement(
    select(_o.rollout_id, func.sum(func.length(_c.data)))
    .join(schema.contents, _c.name == _o.name)
    .where(in_list(_o.rollout_id, "owners"))
    .group_by(_o.rollout_id),
    "owners",
)
_DELETE_SPANS: Final = Statement(
    delete(schema.spans).where(in_list(_s.rollout_id, "owners")), "owners"
)
_DELETE_ATTEMPTS: Final = Statement(
    delete(schema.attempts).where(in_list(_a.rollout_id, "owners")), "owners"
)
_DELETE_NUMBERS: Final = Statement(
    delete(schema.span_sequence_ids).where(in_list(_n.key, "owners")), "owners"
)
_BODIES: Final = Statement(
    select(_s.ordinal, _s.rollout_id, _s.attempt_id, _s.span_id, _s.body)
    .where(_s.ordinal > bindparam("after"))
    .order_by(_s.ordinal)
    .limit(_PAGE),
    "after",
)
_THERE: Final = Statement(select(_c.name).where(in_list(_c.name, "names")), "names")
_UNUSED: Final = (
    select(func.count())
    .select_from(schema.contents)
    .where(~select(_o.name).where(_o.name == _c.name).exists())
)
_COLLECT_ALL: Final = Statement(
    delete(schema.contents).where(~select(_o.name).where(_o.name == _c.name).exists())
)
_UNOWNED: Final = (
    select(_o.rollout_id)
    .where(~select(_s.ordinal).where(_s.rollout_id == _o.rollout_id).exists())
    .distinct()
)


def scan(executor: Executor, records: Records[M], after: int, limit: int) -> list[tuple[str, M]]:
    """Return the records after an ordinal, each with its own."""
    ordinal = records.table.c.ordinal
    query = records.select_all().add_columns(ordinal).where(ordinal > after)
    rows = executor.select(query.order_by(ordinal).limit(limit))
    found = records.decode(executor, [tuple(row)[:-1] for row in rows])
    return [(str(row[-1]), record) for row, record in zip(rows, found, strict=True)]


def scan_queue(executor: Executor, after: int, limit: int) -> list[tuple[str, str]]:
    """Return the ids in line after an ordinal, each with its own."""
    line = schema.rollout_queue.c
    query = select(line.ordinal, line.value).where(line.ordinal > after)
    rows = executor.select(query.order_by(line.ordinal).limit(limit))
    return [(str(place), value) for place, value in rows]


def count_by_status(executor: Executor) -> dict[str, int]:
    """Return how many rollouts have each status."""
    counts: dict[str, int] = {}
    for (status, _), count in read_facets(read_totals(executor)).items():
        counts[status] = counts.get(status, 0) + count
    return counts


def storage_bytes(executor: Executor) -> int:
    """Return what the tables and their indexes take on disk."""
    if executor.dialect.name == "sqlite":
        query = text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
    else:
        names = ", ".join(f"'{name}'" for name in schema.metadata.tables)
        query = text(
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            f"WHERE n.nspname = current_schema() AND c.relkind = 'r' AND c.relname IN ({names})"
        )
    return int(executor.select(query)[0][0] or 0)


def span_bytes(executor: Executor, rollout_ids: Sequence[str]) -> dict[str, int]:
    """Return how long each rollout's spans are; a content counts for everybody who uses it."""
    sizes = dict.fromkeys(rollout_ids, 0)
    owners = executor.array(list(rollout_ids))
    for statement in (_BYTES, _CONTENT_BYTES):
        for rollout_id, size in executor.rows(statement, (owners,)):
            sizes[rollout_id] += int(size or 0)
    return sizes


def remove(executor: Executor, rollout_ids: Sequence[str], *, spans_only: bool) -> int:
    """Remove spans, or all that there is, of rollouts; return how many spans there were."""
    totals = Totals()
    owners = executor.array(list(rollout_ids))
    removed = executor.change(_DELETE_SPANS, (owners,))
    totals.add("spans", -removed)
    # In one order everywhere, so that two writers cannot wait for each other.
    for rollout_id in sorted(rollout_ids):
        contents.release(executor, rollout_id)
    if not spans_only:
        totals.add("attempts", -executor.change(_DELETE_ATTEMPTS, (owners,)))
        executor.change(_DELETE_NUMBERS, (owners,))
        ROLLOUTS.delete(executor, ROLLOUTS.by_first(list(rollout_ids), executor), totals)
    totals.flush(executor)
    return removed


def content_faults(executor: Executor) -> list[BackendFault]:
    """Return what is wrong with the contents that spans keep apart."""
    found = list(_missing(executor))
    unused = executor.select(_UNUSED)[0][0]
    if unused:
        said = f"{unused} contents are used by no span; they take room"
        found.append(BackendFault("contents_unused", (), said, serious=False, repairable=True))
    owners = [str(row[0]) for row in executor.select(_UNOWNED)]
    if owners:
        said = f"{len(owners)} rollouts hold contents but have no span; these take room"
        found.append(BackendFault("contents_held", (), said, serious=False, repairable=True))
    return found


def _missing(executor: Executor) -> Iterator[BackendFault]:
    after = -1
    while rows := executor.rows(_BODIES, (after,)):
        after = rows[-1][0]
        wanted = [piece_names(row[4]) for row in rows]
        names = list(set().union(*wanted))
        there = {name for (name,) in executor.rows(_THERE, (executor.array(names),))}
        for (_, *ids, _), needed in zip(rows, wanted, strict=True):
            lost = needed - there
            if lost:
                said = f"{len(lost)} contents of the span are missing: it cannot be read"
                yield BackendFault("contents_missing", tuple(map(str, ids)), said, serious=True)


def mend_contents(executor: Executor) -> None:
    """Remove contents that nobody uses."""
    for row in executor.select(_UNOWNED):
        contents.release(executor, row[0])
    executor.change(_COLLECT_ALL)
