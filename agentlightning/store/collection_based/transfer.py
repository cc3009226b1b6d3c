"""Giving out and taking in whole records, for copies, checks and repairs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Final, TypeVar, cast

from pydantic import BaseModel, Field

from agentlightning.errors import InvalidRequestError
from agentlightning.store.collection_based import announcements
from agentlightning.store.collection_based.frame import StoreFrame, tracked
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.collections.base import LightningCollections
from agentlightning.store.collections.codec import encode
from agentlightning.store.collections.kinds import Collection
from agentlightning.store.lifecycle import is_ended, is_waiting
from agentlightning.store.record import replace
from agentlightning.store.transfer import COPY_KIND, FAULT_KIND, KINDS, PAGE_BYTES, RecordPage
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, Worker

M = TypeVar("M", bound=BaseModel)

_COPY_KEY: Final = "agentlightning.copy"
"""The counter that says that a copy into this store is unfinished; no rollout's id."""
_MAX_LIMIT: Final = 10_000
_MAX_NUMBER: Final = 2**53
_BATCH: Final = 500


class _InLine(BaseModel):
    """A record of the queue."""

    rollout_id: str


class _Counter(BaseModel):
    """The highest sequence id of a rollout's spans."""

    rollout_id: str
    value: int = Field(ge=0, le=_MAX_NUMBER)


class _Copy(BaseModel):
    """Which source an unfinished copy is of; 0 ends it."""

    source: int = Field(ge=0, lt=2**31)


class _Fault(BaseModel):
    """A fault that shall be mended."""

    code: str


_MODELS: Final[dict[str, type[BaseModel]]] = {
    "rollouts": Rollout,
    "attempts": Attempt,
    "spans": Span,
    "resources": ResourcesUpdate,
    "resource_versions": ResourcesUpdate,
    "workers": Worker,
    "queue": _InLine,
    "sequence_ids": _Counter,
    COPY_KIND: _Copy,
    FAULT_KIND: _Fault,
}
_SCALARS: Final = frozenset({str, int, float, bool})


def _parsed(kind: str, records: Sequence[str]) -> list[Any]:
    model = _MODELS[kind]
    try:
        if model is Span:
            return [_span(json.loads(text)) for text in records]
        return [model.model_validate(json.loads(text)) for text in records]
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequestError(
            f"A record is not of kind {kind}: {error}; give texts as export_records returns them."
        ) from error


def _span(fields: Any) -> Span:
    """Return a span of fields that somebody sent.

    Perf: pydantic tries each member of the attribute union on each list, which takes 1 ms for a
    captured call of 2,000 tokens.
    """
    attributes = fields.get("attributes") if type(fields) is dict else None
    if type(attributes) is not dict:
        return Span.model_validate(fields)
    for key, value in cast("dict[str, Any]", attributes).items():
        kinds = set(map(type, cast("list[Any]", value))) if type(value) is list else {type(value)}
        if not kinds <= _SCALARS:
            raise ValueError(f"attribute {key!r} of a span holds {value!r:.50}")
    span = Span.model_validate({**fields, "attributes": {}})
    if not 0 <= span.sequence_id <= _MAX_NUMBER:
        raise ValueError(f"sequence_id of a span is {span.sequence_id}")
    return replace(span, attributes=attributes)


def _page(kind: str, found: Sequence[tuple[str, BaseModel]], *, limit: int) -> RecordPage:
    """Return a page of records, cut where it has become large."""
    texts: list[str] = []
    size = 0
    for cursor, record in found:
        texts.append(encode(record))
        size += len(texts[-1])
        if size >= PAGE_BYTES:
            return RecordPage(kind, texts, cursor)
    return RecordPage(kind, texts, found[-1][0] if len(found) >= limit else None)


class TransferMethods(StoreFrame):
    """`export_records` and `import_records`."""

    @tracked
    async def export_records(
        self, kind: str, *, after: str | None = None, limit: int = 1000
    ) -> RecordPage:
        if kind not in _MODELS:
            raise InvalidRequestError(
                f"{kind!r} is no kind of record; use one of {', '.join(KINDS)}."
            )
        if not 0 < limit <= _MAX_LIMIT:
            raise InvalidRequestError(f"limit is {limit}; use 1 to {_MAX_LIMIT}.")

        async def step(tx: Transaction) -> RecordPage:
            if kind == "queue":
                return await _export_queue(tx.rows, after, limit)
            if kind == "sequence_ids":
                return await _export_sequence_ids(tx.rows, after, limit)
            if kind == FAULT_KIND:
                faults = await tx.rows.find_faults()
                return RecordPage(kind, [json.dumps(asdict(fault)) for fault in faults], None)
            if kind == COPY_KIND:
                mark = await tx.rows.span_sequence_ids.get(_COPY_KEY)
                return RecordPage(kind, [f'{{"source":{mark}}}'] if mark else [], None)
            collection: Collection[Any] | None = getattr(tx.rows, kind)
            if collection is None:
                return RecordPage(kind, [], None)
            return _page(kind, await collection.scan(after, limit), limit=limit)

        return await self._read(step)

    @tracked
    async def import_records(self, kind: str, records: Sequence[str]) -> int:
        take = _TAKERS.get(kind)
        if take is None:
            raise InvalidRequestError(
                f"{kind!r} is no kind of record; use one of {', '.join(KINDS)}."
            )
        items = _parsed(kind, records)
        if not items:
            return 0

        async def step(tx: Transaction) -> int:
            return await take(tx, items)

        return await self._write(step)


async def _export_queue(rows: LightningCollections, after: str | None, limit: int) -> RecordPage:
    found = await rows.rollout_queue.scan(after, limit)
    texts = [json.dumps({"rollout_id": value}, separators=(",", ":")) for _, value in found]
    return RecordPage("queue", texts, found[-1][0] if len(found) >= limit else None)


async def _export_sequence_ids(
    rows: LightningCollections, after: str | None, limit: int
) -> RecordPage:
    found = await rows.rollouts.scan(after, limit)
    numbers = await rows.find_sequence_ids([rollout.rollout_id for _, rollout in found])
    texts = [
        json.dumps({"rollout_id": rollout_id, "value": number}, separators=(",", ":"))
        for rollout_id, number in numbers.items()
        if number
    ]
    return RecordPage("sequence_ids", texts, found[-1][0] if len(found) >= limit else None)


async def _stored(collection: Collection[M], field: str, ids: Sequence[str]) -> list[M]:
    """Return the records whose field has one of these values."""
    unique = list(dict.fromkeys(ids))
    found: list[M] = []
    for start in range(0, len(unique), _BATCH):
        found.extend(await collection.query({field: {"within": unique[start : start + _BATCH]}}))
    return found


def _differs(old: BaseModel | None, new: BaseModel) -> bool:
    # The texts are compared, because NaN equals nothing.
    return old is None or encode(old) != encode(new)


async def _take_rollouts(tx: Transaction, rollouts: Sequence[Rollout]) -> int:
    await tx.load([rollout.rollout_id for rollout in rollouts], attempts=False)
    count = 0
    for rollout in rollouts:
        old = await tx.find_rollout(rollout.rollout_id)
        if old is None:
            tx.add_rollout(rollout)
        elif _differs(old, rollout):
            tx.put_rollout(rollout)
        else:
            continue
        count += 1
    return count


async def _take_attempts(tx: Transaction, attempts: Sequence[Attempt]) -> int:
    ids = [attempt.rollout_id for attempt in attempts]
    await tx.load(ids, attempts=False)
    known = {
        (old.rollout_id, old.attempt_id): old
        for old in await _stored(tx.rows.attempts, "rollout_id", ids)
    }
    count = 0
    for attempt in attempts:
        key = (attempt.rollout_id, attempt.attempt_id)
        old = known.get(key)
        if old is None:
            tx.changes.new_attempts[key] = attempt
        elif _differs(old, attempt):
            tx.changes.attempts[key] = attempt
        else:
            continue
        count += 1
        if not is_ended(attempt):
            # Its limits go on counting here.
            tx.deadline = tx.now
    return count


async def _take_spans(tx: Transaction, spans: Sequence[Span]) -> int:
    owners: dict[tuple[str, str], dict[str, Span]] = {}
    for span in spans:
        owners.setdefault((span.rollout_id, span.attempt_id), {}).setdefault(span.span_id, span)
    await tx.load([rollout_id for rollout_id, _ in owners], attempts=False)
    for (rollout_id, attempt_id), given in owners.items():
        for span_id in await tx.rows.find_known_spans(rollout_id, attempt_id, list(given)):
            del given[span_id]
    new = [
        span
        for span in spans
        if owners[span.rollout_id, span.attempt_id].pop(span.span_id, None) is span
    ]
    tx.changes.new_spans.extend(new)
    return len(new)


async def _take_resources(tx: Transaction, updates: Sequence[ResourcesUpdate]) -> int:
    # Asked so that nobody publishes meanwhile.
    await tx.rows.find_newest_resources()
    ids = [update.resources_id for update in updates]
    known = {old.resources_id: old for old in await _stored(tx.rows.resources, "resources_id", ids)}
    new = [update for update in updates if _differs(known.get(update.resources_id), update)]
    tx.changes.resources.extend(new)
    for update in new:
        tx.changes.told.append(announcements.resources_event(update, tx.now))
    return len(new)


async def _take_versions(tx: Transaction, updates: Sequence[ResourcesUpdate]) -> int:
    if tx.rows.resource_versions is None:
        return 0
    ids = [update.resources_id for update in updates]
    known = {
        (old.resources_id, old.version)
        for old in await _stored(tx.rows.resource_versions, "resources_id", ids)
    }
    new = [update for update in updates if (update.resources_id, update.version) not in known]
    tx.changes.superseded.extend(new)
    return len(new)


async def _take_workers(tx: Transaction, workers: Sequence[Worker]) -> int:
    ids = [worker.worker_id for worker in workers]
    known = {old.worker_id: old for old in await _stored(tx.rows.workers, "worker_id", ids)}
    new = [worker for worker in workers if _differs(known.get(worker.worker_id), worker)]
    for worker in new:
        tx.changes.workers[worker.worker_id] = worker
        tx.worker_event(worker)
    return len(new)


async def _take_queue(tx: Transaction, entries: Sequence[_InLine]) -> int:
    ids = [entry.rollout_id for entry in entries]
    await tx.load(ids, attempts=False)
    for rollout_id in ids:
        if rollout_id in tx.changes.queued:
            continue
        await tx.queue(rollout_id)
        rollout = await tx.find_rollout(rollout_id)
        if rollout_id in tx.changes.queued and rollout is not None and is_waiting(rollout):
            # Whoever waits for work is woken by the event.
            tx.rollout_event("rollout_updated", rollout)
    return len(tx.changes.queued)


async def _take_sequence_ids(tx: Transaction, entries: Sequence[_Counter]) -> int:
    values = {entry.rollout_id: entry.value for entry in entries}
    await tx.load(list(values), attempts=False)
    known = await tx.rows.find_sequence_ids(list(values))
    grown = {key: value for key, value in values.items() if value > known.get(key, 0)}
    tx.changes.sequence_ids.update(grown)
    return len(grown)


async def _take_copy(tx: Transaction, entries: Sequence[_Copy]) -> int:
    mark = entries[-1].source
    if mark:
        await tx.rows.span_sequence_ids.set(_COPY_KEY, mark)
    else:
        await tx.rows.span_sequence_ids.pop(_COPY_KEY)
    return 1


async def _take_faults(tx: Transaction, faults: Sequence[_Fault]) -> int:
    await tx.rows.mend()
    return len(faults)


_TAKERS: Final[dict[str, Callable[[Transaction, Sequence[Any]], Awaitable[int]]]] = {
    "rollouts": _take_rollouts,
    "attempts": _take_attempts,
    "spans": _take_spans,
    "resources": _take_resources,
    "resource_versions": _take_versions,
    "workers": _take_workers,
    "queue": _take_queue,
    "sequence_ids": _take_sequence_ids,
    COPY_KIND: _take_copy,
    FAULT_KIND: _take_faults,
}
