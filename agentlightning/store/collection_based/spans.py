"""Taking spans in, and giving them out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from agentlightning.semconv import LightningSpanAttributes
from agentlightning.store.base import FilterLogic, SortOrder
from agentlightning.store.collection_based.frame import StoreFrame, healthcheck_before, tracked
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.collections.base import DuplicatedPrimaryKeyError
from agentlightning.store.lifecycle import on_spans
from agentlightning.store.record import replace
from agentlightning.types import Attempt, PaginatedResult, Rollout, Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

logger = logging.getLogger(__name__)

_Owner = tuple[str, str]
_LATE = LightningSpanAttributes.LATE.value


def _identity(span: Span) -> tuple[str, str, str]:
    return span.rollout_id, span.attempt_id, span.span_id


class SpanMethods(StoreFrame):
    """`add_*span*`, sequence ids and `query_spans`."""

    @tracked
    async def add_span(self, span: Span) -> Span | None:
        stored = await self._add([span])
        return stored[0] if stored else None

    @tracked
    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        return await self._add(spans) if spans else []

    @tracked
    async def add_otel_span(
        self,
        rollout_id: str,
        attempt_id: str,
        readable_span: ReadableSpan,
        sequence_id: int | None = None,
    ) -> Span | None:
        span = Span.from_opentelemetry(readable_span, rollout_id, attempt_id, sequence_id or 0)
        stored = await self._add([span])
        return stored[0] if stored else None

    async def _add(self, spans: Sequence[Span]) -> list[Span]:
        first: dict[Any, Span] = {}
        for span in spans:
            first.setdefault(_identity(span), span)
        unique = list(first.values())

        async def step(tx: Transaction) -> list[Span]:
            return await self._store_spans(tx, unique)

        return await self._write(step)

    async def _store_spans(self, tx: Transaction, spans: Sequence[Span]) -> list[Span]:
        """Store spans of any attempts; each identity occurs once."""
        owners = await self._owners(tx, spans)
        late = {
            owner
            for owner, (rollout, attempt, latest) in owners.items()
            if on_spans(rollout, attempt, latest=latest, now=tx.now).late
        }
        numbered, counters = await self._number(tx, spans, late)
        try:
            await tx.rows.spans.insert(numbered)
        except DuplicatedPrimaryKeyError:
            new = await self._without_known(tx, spans)
            numbered, counters = await self._number(tx, new, late)
            await tx.rows.spans.insert(numbered)
        for rollout_id, highest in counters.items():
            await tx.rows.span_sequence_ids.chmax(rollout_id, highest)
        await self._note_arrivals(tx, owners, numbered)
        await self._spans_stored(tx, numbered)
        return numbered

    async def _owners(
        self, tx: Transaction, spans: Sequence[Span]
    ) -> dict[_Owner, tuple[Rollout, Attempt, bool]]:
        """Return rollout, attempt and whether it is the latest, for everyone who sent spans."""
        owners: dict[_Owner, tuple[Rollout, Attempt, bool]] = {}
        for rollout_id, attempt_id in dict.fromkeys((s.rollout_id, s.attempt_id) for s in spans):
            rollout = await tx.rollout(rollout_id)
            attempt, latest = await tx.attempt_and_latest(rollout_id, attempt_id)
            owners[rollout_id, attempt_id] = (rollout, attempt, latest)
        return owners

    async def _number(
        self, tx: Transaction, spans: Sequence[Span], late: set[_Owner]
    ) -> tuple[list[Span], dict[str, int]]:
        """Return the spans as they will be stored, and each rollout's highest sequence id."""
        highest: dict[str, int] = {}
        numbered: list[Span] = []
        for span in spans:
            rollout_id = span.rollout_id
            if rollout_id not in highest:
                highest[rollout_id] = await tx.rows.span_sequence_ids.get(rollout_id, 0) or 0
            number = span.sequence_id or highest[rollout_id] + 1
            highest[rollout_id] = max(highest[rollout_id], number)
            changes: dict[str, Any] = {"sequence_id": number}
            if late and (rollout_id, span.attempt_id) in late:
                changes["attributes"] = {**span.attributes, _LATE: True}
            numbered.append(replace(span, **changes))
        return numbered, highest

    async def _without_known(self, tx: Transaction, spans: Sequence[Span]) -> list[Span]:
        new: list[Span] = []
        for span in spans:
            known = await tx.rows.spans.get(
                {
                    "rollout_id": {"exact": span.rollout_id},
                    "attempt_id": {"exact": span.attempt_id},
                    "span_id": {"exact": span.span_id},
                }
            )
            if known is None:
                new.append(span)
        logger.info("spans were stored before", extra={"count": len(spans) - len(new)})
        return new

    async def _note_arrivals(
        self,
        tx: Transaction,
        owners: dict[_Owner, tuple[Rollout, Attempt, bool]],
        spans: Sequence[Span],
    ) -> None:
        """Renew leases and start work, also for spans that had arrived before."""
        counts = dict.fromkeys(owners, 0)
        for span in spans:
            counts[span.rollout_id, span.attempt_id] += 1
        moved: dict[str, Rollout] = {}
        for owner, (stored, attempt, latest) in owners.items():
            rollout = moved.get(stored.rollout_id, stored)
            outcome = on_spans(rollout, attempt, latest=latest, now=tx.now)
            moved[stored.rollout_id] = outcome.rollout
            if counts[owner]:
                tx.attempt_event("spans_added", rollout, attempt, count=counts[owner])
            await tx.apply(rollout, attempt, outcome)

    @tracked
    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        return (await self._reserve([(rollout_id, attempt_id)]))[0]

    @tracked
    async def get_many_span_sequence_ids(
        self, rollout_attempt_ids: Sequence[tuple[str, str]]
    ) -> Sequence[int]:
        return await self._reserve(rollout_attempt_ids) if rollout_attempt_ids else []

    async def _reserve(self, owners: Sequence[_Owner]) -> list[int]:
        async def step(tx: Transaction) -> list[int]:
            return [await tx.rows.span_sequence_ids.inc(rollout_id, 1) for rollout_id, _ in owners]

        return await self._write(step)

    @tracked
    @healthcheck_before
    async def query_spans(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"] | None = None,
        *,
        trace_id: str | None = None,
        trace_id_contains: str | None = None,
        span_id: str | None = None,
        span_id_contains: str | None = None,
        parent_id: str | None = None,
        parent_id_contains: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        limit: int = -1,
        offset: int = 0,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
    ) -> Sequence[Span]:
        await self._check_spans_kept(rollout_id)
        wanted = {
            "trace_id": {"exact": trace_id, "contains": trace_id_contains},
            "span_id": {"exact": span_id, "contains": span_id_contains},
            "parent_id": {"exact": parent_id, "contains": parent_id_contains},
            "name": {"exact": name, "contains": name_contains},
        }

        async def step(tx: Transaction) -> PaginatedResult[Span]:
            owner: dict[str, Any] = {"rollout_id": {"exact": rollout_id}}
            if attempt_id == "latest":
                latest = await tx.latest_attempt(rollout_id)
                if latest is None:
                    return PaginatedResult[Span](items=[], limit=limit, offset=offset, total=0)
                owner["attempt_id"] = {"exact": latest.attempt_id}
            elif attempt_id is not None:
                owner["attempt_id"] = {"exact": attempt_id}
            return await tx.rows.spans.query(
                {**wanted, "_aggregate": filter_logic, "_must": owner},
                {"name": sort_by, "order": sort_order} if sort_by else None,
                limit=limit,
                offset=offset,
            )

        return await self._read(step, ("spans", "attempts"))
