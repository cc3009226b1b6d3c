"""Taking spans in, and giving them out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from agentlightning.semconv import LightningSpanAttributes
from agentlightning.store.base import FilterLogic, SortOrder
from agentlightning.store.collection_based.frame import StoreFrame, healthcheck_before, tracked
from agentlightning.store.collection_based.replies import NUMBERS
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.lifecycle import on_spans
from agentlightning.store.record import replace
from agentlightning.types import PaginatedResult, Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

logger = logging.getLogger(__name__)

_Owner = tuple[str, str]
_LATE = LightningSpanAttributes.LATE.value


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

    def _add(self, spans: Sequence[Span]) -> Awaitable[list[Span]]:
        return self._write(lambda tx: self._store_spans(tx, spans))

    async def _store_spans(self, tx: Transaction, spans: Sequence[Span]) -> list[Span]:
        """Store the spans that are new, of any attempts, and return them as stored."""
        by_owner: dict[_Owner, dict[str, Span]] = {}
        for span in spans:
            own = by_owner.setdefault((span.rollout_id, span.attempt_id), {})
            own.setdefault(span.span_id, span)
        late: set[_Owner] = set()
        for owner, own in by_owner.items():
            if await self._note_arrival(tx, owner, own):
                late.add(owner)
        await tx.load_sequence_ids({rollout_id for rollout_id, _ in by_owner})
        stored: list[Span] = []
        for span in spans:
            owner = (span.rollout_id, span.attempt_id)
            if by_owner[owner].pop(span.span_id, None) is None:
                continue
            number = tx.next_sequence_id(span.rollout_id, span.sequence_id)
            if owner in late:
                attributes = {**span.attributes, _LATE: True}
                stored.append(replace(span, sequence_id=number, attributes=attributes))
            else:
                stored.append(replace(span, sequence_id=number))
        tx.changes.new_spans.extend(stored)
        return stored

    async def _note_arrival(self, tx: Transaction, owner: _Owner, own: dict[str, Span]) -> bool:
        """Renew an attempt's lease and start its work, also for spans that had arrived before;
        take those out of `own`, and return whether the attempt is fenced.
        """
        rollout, attempt, latest = await tx.work(*owner)
        known = await tx.rows.find_known_spans(*owner, list(own))
        for span_id in known:
            del own[span_id]
        if known:
            logger.info("spans were stored before", extra={"count": len(known)})
        if own:
            tx.attempt_event("spans_added", rollout, attempt, count=len(own))
        outcome = on_spans(rollout, attempt, latest=latest, now=tx.now)
        await tx.apply(rollout, attempt, outcome)
        return outcome.late

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
            rollout_ids = [rollout_id for rollout_id, _ in owners]
            different = list(dict.fromkeys(rollout_ids))
            await tx.load(different, attempts=False)
            await tx.load_sequence_ids(different)
            return [tx.next_sequence_id(rollout_id) for rollout_id in rollout_ids]

        return await self._once("sequence_ids", step, NUMBERS)

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
