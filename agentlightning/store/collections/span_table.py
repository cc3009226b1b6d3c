"""All spans in memory: packed, grouped by rollout and attempt, and read in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from agentlightning.errors import NotFoundError
from agentlightning.store.collections.base import Collection, DuplicatedPrimaryKeyError
from agentlightning.store.collections.filtering import (
    check_page,
    compile_filter,
    is_any,
    none_rank,
    page,
    sort_records,
)
from agentlightning.store.collections.packed import PackedSpan
from agentlightning.store.record import build, replace
from agentlightning.types import FilterOptions, OtelResource, PaginatedResult, SortOptions, Span

_KEYS = ("rollout_id", "attempt_id", "span_id")


class _RolloutSpans:
    """The spans of one rollout, in order of insertion."""

    __slots__ = ("by_attempt", "is_ascending", "rows", "shared", "size")

    def __init__(self) -> None:
        self.rows: list[PackedSpan] = []
        self.by_attempt: dict[str, dict[str, PackedSpan]] = {}
        self.is_ascending = True
        """Each sequence id is beyond the one before, so that no sorting is needed."""
        self.shared: dict[Any, Any] = {}
        self.size = 0

    def find(self, span: Span) -> PackedSpan | None:
        return self.by_attempt.get(span.attempt_id, {}).get(span.span_id)

    def add(self, packed: PackedSpan, size: int) -> None:
        if self.rows and self.rows[-1].sequence_id >= packed.sequence_id:
            self.is_ascending = False
        self.rows.append(packed)
        attempt = self.by_attempt.get(packed.attempt_id)
        if attempt is None:
            attempt = self.by_attempt[packed.attempt_id] = {}
        attempt[packed.span_id] = packed
        self.size += size


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
        packed = PackedSpan(span, rollout.shared)
        size = packed.size if self._size_of is None else self._size_of(span)
        rollout.add(packed, size)
        self._count += 1
        self.total_bytes += size

    def known(self, rollout_id: str, attempt_id: str, span_ids: Sequence[str]) -> set[str]:
        """Return which of an attempt's spans are here."""
        rollout = self._rollouts.get(rollout_id)
        kept = rollout.by_attempt.get(attempt_id) if rollout is not None else None
        return {span_id for span_id in span_ids if span_id in kept} if kept else set()

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

    def _rows(self, options: FilterOptions | None) -> tuple[list[PackedSpan], bool]:
        """Return the matches, and whether they are in ascending order of sequence id."""
        rollout_id, attempt_id, rest = _split_owner(options)
        if rollout_id is None:
            rows = list(chain.from_iterable(r.rows for r in self._rollouts.values()))
            ascending = False
        else:
            rollout = self._rollouts.get(rollout_id)
            if rollout is None:
                return [], True
            rows, ascending = rollout.rows, rollout.is_ascending
            if attempt_id is not None:
                rows = list(rollout.by_attempt.get(attempt_id, {}).values())
        test = compile_filter(rest)
        return rows if test is None else [row for row in rows if test(row)], ascending

    async def query(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Span]:
        check_page(limit, offset)
        rows, ascending = self._rows(filter)
        if sort is not None:
            none_rank(Span, sort["name"])
            if ascending and sort["name"] == "sequence_id":
                return _page_in_order(rows, limit, offset, backwards=sort["order"] == "desc")
            rows = sort_records(rows, Span, sort)
        found = page(rows, limit, offset)
        return _result(found.items, limit, offset, found.total)

    async def get(
        self, filter: FilterOptions | None = None, sort: SortOptions | None = None
    ) -> Span | None:
        found = await self.query(filter, sort, limit=1)
        return found[0] if found else None

    def _find(self, span: Span) -> PackedSpan | None:
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
        old = self._find(span)
        if old is None:
            self.add(span)
            return span
        if update_fields is not None:
            span = replace(old.span(), **{name: getattr(span, name) for name in update_fields})
        self._rebuild(span.rollout_id, {id(old): span})
        return span

    async def delete(self, items: Sequence[Span]) -> None:
        self._check(items, present=True)
        gone: dict[str, dict[int, None]] = {}
        for span in items:
            gone.setdefault(span.rollout_id, {})[id(self._find(span))] = None
        for rollout_id, rows in gone.items():
            self._rebuild(rollout_id, rows)

    def _rebuild(self, rollout_id: str, changed: Mapping[int, Span | None]) -> None:
        """Put a rollout's spans together anew, with some of them replaced or left out."""
        rows = self._rollouts[rollout_id].rows
        self.drop(rollout_id)
        for row in rows:
            span = changed.get(id(row)) if id(row) in changed else row.span()
            if span is not None:
                self.add(span)


def _result(
    rows: Iterable[PackedSpan], limit: int, offset: int, total: int
) -> PaginatedResult[Span]:
    resources: dict[bytes, OtelResource] = {}
    spans = [row.span(resources) for row in rows]
    return build(
        PaginatedResult[Any], {"items": spans, "limit": limit, "offset": offset, "total": total}
    )


def _page_in_order(
    rows: Sequence[PackedSpan], limit: int, offset: int, *, backwards: bool
) -> PaginatedResult[Span]:
    """Return a page of rows that are in order, without touching the others."""
    total = len(rows)
    end = total if limit == -1 else min(total, offset + limit)
    picked: Iterable[PackedSpan] = rows[offset:end]
    if backwards:
        picked = reversed(rows[max(0, total - end) : max(0, total - offset)])
    return _result(picked, limit, offset, total)


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
