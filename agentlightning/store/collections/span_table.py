"""All spans in memory: packed, grouped by rollout and attempt, and read in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from operator import attrgetter, le
from typing import Any, Final

from agentlightning.errors import NotFoundError
from agentlightning.store.collections.base import Collection, DuplicatedPrimaryKeyError
from agentlightning.store.collections.filtering import (
    check_page,
    compile_filter,
    conditions,
    is_any,
    musts,
    none_rank,
    sort_records,
)
from agentlightning.store.collections.packed import PackedSpan, is_packed_read
from agentlightning.store.collections.packed_rows import READABLE, PackedRows
from agentlightning.store.record import build, replace
from agentlightning.types import FilterOptions, OtelResource, PaginatedResult, SortOptions, Span

_KEYS = ("rollout_id", "attempt_id", "span_id")
_NUMBERS: Final = frozenset({"sequence_id", "start_time", "end_time"})
"""Fields that spans often arrive in the order of."""
_UNORDERED: Final = -1


class _RolloutSpans:
    """The spans of one rollout, in order of insertion."""

    __slots__ = ("_in_order", "by_attempt", "last", "rows", "shared", "size")

    def __init__(self) -> None:
        self.rows = PackedRows()
        self.last: PackedSpan | None = None
        self.by_attempt: dict[str, dict[str, int]] = {}
        """Positions of spans in `rows`."""
        self.shared: dict[Any, Any] = {}
        self.size = 0
        self._in_order: dict[str, int] = {}
        """By field, how many rows are known to be in its order; `_UNORDERED` if some are not."""

    def is_ascending(self, field: str) -> bool:
        """Return whether no row has less in a number's field than the row before it.

        Rows are looked at once, the first time that somebody wants them in this order.
        """
        known = self._in_order.get(field, 0)
        if 0 <= known < len(self.rows):
            values = self.rows.values(field, max(known - 1, 0))
            # None has a place of its own in the order, and NaN has none.
            ordered = None not in values and all(map(le, values, islice(values, 1, None)))
            known = self._in_order[field] = len(self.rows) if ordered else _UNORDERED
        return known != _UNORDERED

    def of_attempt(self, attempt_id: str) -> Sequence[PackedSpan]:
        """Return the spans of one attempt, in order of insertion."""
        found = self.by_attempt.get(attempt_id, {})
        if len(found) == len(self.rows):
            return self.rows
        return [self.rows[position] for position in found.values()]

    def find(self, span: Span) -> int | None:
        """Return a span's position."""
        return self.by_attempt.get(span.attempt_id, {}).get(span.span_id)


class SpanTable(Collection[Span]):
    """Spans by rollout, attempt and span id; listings are grouped by rollout.

    Args:
        size_of: Returns the bytes that a span takes; None estimates it from its packed form.
    """

    def __init__(self, size_of: Callable[[Span], int] | None = None) -> None:
        self._size_of = size_of
        self._rollouts: dict[str, _RolloutSpans] = {}
        self._count = 0
        self.total_bytes = 0
        """What all spans take together."""

    def primary_keys(self) -> Sequence[str]:
        return _KEYS

    def item_type(self) -> type[Span]:
        return Span

    async def size(self) -> int:
        return self._count

    def add(self, span: Span) -> None:
        """Keep a span that is known to be new."""
        rollout = self._rollouts.get(span.rollout_id)
        if rollout is None:
            rollout = self._rollouts[span.rollout_id] = _RolloutSpans()
        packed = rollout.last = PackedSpan(span, rollout.shared, rollout.last)
        size = packed.size if self._size_of is None else self._size_of(span)
        attempt = rollout.by_attempt.get(span.attempt_id)
        if attempt is None:
            attempt = rollout.by_attempt[span.attempt_id] = {}
        attempt[packed.span_id] = len(rollout.rows)
        rollout.rows.append(packed)
        rollout.size += size
        self._count += 1
        self.total_bytes += size

    def known(self, rollout_id: str, attempt_id: str, span_ids: Sequence[str]) -> set[str]:
        """Return which of an attempt's spans are here."""
        rollout = self._rollouts.get(rollout_id)
        kept = rollout.by_attempt.get(attempt_id) if rollout is not None else None
        return kept.keys() & span_ids if kept else set()

    def bytes_of(self, rollout_id: str) -> int:
        """Return what a rollout's spans take."""
        rollout = self._rollouts.get(rollout_id)
        return 0 if rollout is None else rollout.size

    def drop(self, rollout_id: str) -> int:
        """Remove a rollout's spans; return how many there were."""
        rollout = self._rollouts.pop(rollout_id, None)
        if rollout is None:
            return 0
        self._count -= len(rollout.rows)
        self.total_bytes -= rollout.size
        return len(rollout.rows)

    def _rows(
        self, options: FilterOptions | None
    ) -> tuple[Sequence[PackedSpan], _RolloutSpans | None]:
        """Return the matches in order of insertion, and the rollout if all belong to one."""
        rollout_id, attempt_id, rest = _split_owner(options)
        rollout = None
        rows: Sequence[PackedSpan]
        if rollout_id is None:
            rows = list(chain.from_iterable(r.rows for r in self._rollouts.values()))
        else:
            rollout = self._rollouts.get(rollout_id)
            if rollout is None:
                return [], None
            rows = rollout.rows if attempt_id is None else rollout.of_attempt(attempt_id)
        test = compile_filter(rest)
        if test is None:
            return rows, rollout
        if isinstance(rows, PackedRows) and not any(musts(rest)):
            fields = list({field for field, _, _ in conditions(rest)})
            return rows.where(test, fields), rollout
        return [row for row in rows if test(row)], rollout

    async def query(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Span]:
        check_page(limit, offset)
        rows, rollout = self._rows(filter)
        total = len(rows)
        end = total if limit == -1 else min(total, offset + limit)
        if sort is not None:
            field = sort["name"]
            rank, backwards = none_rank(Span, field), sort["order"] == "desc"
            # Perf: a page of rows that are in order is cut out without touching the others.
            if field in _NUMBERS and rollout is not None and rollout.is_ascending(field):
                if backwards:
                    rows = sort_records(_tail(rows, end, field), Span, sort)
            elif isinstance(rows, PackedRows) and field in READABLE:
                order = rows.ordered(field, rank, backwards=backwards)[offset:end]
                return _result([rows[position] for position in order], limit, offset, total)
            else:
                rows = sort_records([*rows], Span, sort)
        return _result(rows[offset:end], limit, offset, total)

    async def get(
        self, filter: FilterOptions | None = None, sort: SortOptions | None = None
    ) -> Span | None:
        found = await self.query(filter, sort, limit=1)
        return found[0] if found else None

    def _find(self, span: Span) -> int | None:
        rollout = self._rollouts.get(span.rollout_id)
        return rollout.find(span) if rollout is not None else None

    def _check(self, spans: Sequence[Any], *, present: bool) -> None:
        for span in spans:
            if not isinstance(span, Span):
                raise TypeError(f"The collection holds Span, not {type(span).__name__}.")
            if present and self._find(span) is None:
                raise NotFoundError(f"Span {span.span_id!r} is not there; insert it first.")

    async def insert(self, items: Sequence[Span]) -> None:
        self._check(items, present=False)
        keys = {(span.rollout_id, span.attempt_id, span.span_id) for span in items}
        known = next((span for span in items if self._find(span) is not None), None)
        if known is not None or len(keys) != len(items):
            shown = "" if known is None else f" {known.span_id!r}"
            raise DuplicatedPrimaryKeyError(
                f"Span{shown} is there already, or is given twice; update it instead."
            )
        for span in items:
            self.add(span)

    async def update(
        self, items: Sequence[Span], update_fields: Sequence[str] | None = None
    ) -> Sequence[Span]:
        self._check(items, present=True)
        return [self._merge(span, update_fields) for span in items]

    async def upsert(
        self, items: Sequence[Span], update_fields: Sequence[str] | None = None
    ) -> Sequence[Span]:
        self._check(items, present=False)
        return [self._merge(span, update_fields) for span in items]

    def _merge(self, span: Span, update_fields: Sequence[str] | None) -> Span:
        position = self._find(span)
        if position is None:
            self.add(span)
            return span
        if update_fields is not None:
            old = self._rollouts[span.rollout_id].rows[position].span()
            span = replace(old, **{name: getattr(span, name) for name in update_fields})
        self._rebuild(span.rollout_id, {position: span})
        return span

    async def delete(self, items: Sequence[Span]) -> None:
        self._check(items, present=True)
        gone: dict[str, dict[int | None, None]] = {}
        for span in items:
            gone.setdefault(span.rollout_id, {})[self._find(span)] = None
        for rollout_id, positions in gone.items():
            self._rebuild(rollout_id, positions)

    def _rebuild(self, rollout_id: str, changed: Mapping[int | None, Span | None]) -> None:
        """Put a rollout's spans together anew, with some of them replaced or left out."""
        rows = self._rollouts[rollout_id].rows
        self.drop(rollout_id)
        for position, row in enumerate(rows):
            span = changed[position] if position in changed else row.span()
            if span is not None:
                self.add(span)


def _result(
    rows: Iterable[PackedSpan], limit: int, offset: int, total: int
) -> PaginatedResult[Span]:
    spans: Sequence[Any] = [*rows]
    if not is_packed_read():
        resources: dict[str | bytes, OtelResource] = {}
        spans = [row.span(resources) for row in rows]
    return build(
        PaginatedResult[Any], {"items": spans, "limit": limit, "offset": offset, "total": total}
    )


def _tail(rows: Sequence[PackedSpan], size: int, field: str) -> list[PackedSpan]:
    """Return the last rows of those in ascending order, with all that equal the first of them."""
    start = len(rows) - size
    value_of = attrgetter(field)
    while 0 < start < len(rows) and value_of(rows[start - 1]) == value_of(rows[start]):
        start -= 1
    return [*rows[start:]]


def _exact(options: Mapping[str, Any], field: str) -> str | None:
    asked = options.get(field)
    return asked.get("exact") if isinstance(asked, Mapping) and len(asked) == 1 else None


def _split_owner(options: FilterOptions | None) -> tuple[str | None, str | None, FilterOptions]:
    """Return the rollout and the attempt that all matches belong to, as far as a filter names
    them, and what it asks for besides.
    """
    if not options:
        return None, None, {}
    must: Any = options.get("_must")
    inside = isinstance(must, Mapping)
    where: FilterOptions = must if inside else options
    if is_any(where):
        return None, None, options
    rollout_id, attempt_id = _exact(where, "rollout_id"), _exact(where, "attempt_id")
    if rollout_id is None:
        return None, None, options
    found = {"rollout_id"} if attempt_id is None else {"rollout_id", "attempt_id"}
    left = {field: asked for field, asked in where.items() if field not in found}
    return rollout_id, attempt_id, {**options, "_must": left} if inside else left
