"""Listings of a large store: fills a database on a fast path, then times what a dashboard asks.

    python benchmarks/store_scale.py sqlite:////tmp/scale.db --rollouts 1000000 --spans 10

Some thousand rollouts with their spans are written by the store; the database then copies their
rows under other ids and later times, with everything that hangs on them, so that `agl store check`
finds nothing wrong. Copies share the long values of the rollout that they were made from.
A database that holds as many rollouts already is not filled again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from sqlalchemy import Table, func, select

from agentlightning.store.collections import Changes, LightningCollections
from agentlightning.store.collections.sql import schema
from agentlightning.store.collections.sql.statement import Executor
from agentlightning.store.collections.sql.totals import EVENTS, Totals, read_totals
from agentlightning.store.url import open_store
from agentlightning.types import Attempt, Rollout, Span, StoreEvent

_SEED = 10_000
"""Rollouts that the store writes; the others are copies of these."""
_STEP = 2000
_REPEATS = 9
_STATUSES = ("succeeded", "failed", "cancelled", "queuing", "running")
_WEIGHTS = (900, 90, 9, 0.7, 0.3)
_BEGAN = 1_700_000_000.0
_APART_SECONDS = 0.1
_PROMPT = "You are a careful assistant that answers with one number only. " * 20


def _prefix(copy: int) -> str:
    """Return what the ids of a copy begin with, and no others."""
    return f"ro-{copy:03x}"


def _run(copy: int) -> str:
    """Return the run of a copy's rollouts; five copies make one."""
    return f"run-{copy // 5}"


def _rollout(rng: random.Random, number: int) -> Rollout:
    start = _BEGAN + number * _APART_SECONDS
    status: Any = rng.choices(_STATUSES, _WEIGHTS)[0]
    mode: Any = rng.choices(("train", "val", "test", None), (900, 80, 1, 19))[0]
    return Rollout(
        rollout_id=f"{_prefix(0)}{rng.getrandbits(36):09x}",
        input={"question": f"What is {number} times {number % 97}?"},
        start_time=start,
        end_time=start + rng.random() * 60 if status in _STATUSES[:3] else None,
        mode=mode,
        status=status,
        metadata={"run": _run(number // _SEED), "task": number % 5000},
    )


def _attempt(rng: random.Random, rollout: Rollout) -> Attempt:
    status: Any = "failed" if rollout.status == "cancelled" else rollout.status
    return Attempt(
        rollout_id=rollout.rollout_id,
        attempt_id=f"at-{rng.getrandbits(32):08x}",
        sequence_id=1,
        start_time=rollout.start_time,
        end_time=rollout.end_time,
        status=status,
        worker_id=f"w-{rng.randrange(64)}",
    )


def _span(rng: random.Random, attempt: Attempt, number: int) -> Span:
    attributes: dict[str, Any] = {
        "gen_ai.request.model": "m",
        "gen_ai.prompt": f"{_PROMPT}{attempt.rollout_id}",
        "gen_ai.completion": f"{rng.random()}",
        "ids": [rng.randrange(32000) for _ in range(24)],
    }
    return Span.from_attributes(
        attributes=attributes,
        rollout_id=attempt.rollout_id,
        attempt_id=attempt.attempt_id,
        sequence_id=number,
        span_id=f"{rng.getrandbits(64):016x}",
        trace_id=f"{rng.getrandbits(128):032x}",
        name="chat",
        start_time=attempt.start_time + number,
        end_time=attempt.start_time + number + 0.5,
    )


def _changes(rng: random.Random, first: int, count: int, spans: int) -> Changes:
    changes = Changes()
    for number in range(first, first + count):
        rollout = _rollout(rng, number)
        changes.new_rollouts[rollout.rollout_id] = rollout
        if rollout.status == "queuing":
            changes.queued[rollout.rollout_id] = None
            continue
        attempt = _attempt(rng, rollout)
        changes.new_attempts[rollout.rollout_id, attempt.attempt_id] = attempt
        changes.new_spans.extend(_span(rng, attempt, n) for n in range(1, spans + 1))
        changes.sequence_ids[rollout.rollout_id] = spans
    changes.events.append(StoreEvent(seq=0, kind="worker_updated", time=_BEGAN))
    return changes


async def _seed(rows: LightningCollections, rollouts: int, spans: int) -> None:
    rng = random.Random(1)
    for first in range(0, rollouts, _STEP):
        changes = _changes(rng, first, min(_STEP, rollouts - first), spans)

        async def step(inner: LightningCollections, changes: Changes = changes) -> None:
            await inner.apply(changes)

        await rows.execute(step)


_COPIED = (
    schema.rollouts,
    schema.rollout_tags,
    schema.attempts,
    schema.spans,
    schema.rollout_queue,
    schema.span_sequence_ids,
    schema.content_owners,
)
_TIMES = ("start_time", "end_time")
_ID_COLUMNS = {schema.rollout_queue: "value", schema.span_sequence_ids: "key"}


def _copy_of(table: Table, copy: int, seeds: int, rows: int) -> str:
    """Return the statement that copies the seed's rows of a table.

    Args:
        table: The table.
        copy: The copy's number.
        seeds: How many rollouts the seed has.
        rows: The last ordinal of the seed's rows, where the table has ordinals.
    """
    first = _prefix(0)
    owner = _ID_COLUMNS.get(table, "rollout_id")
    changed = {
        owner: f"'{_prefix(copy)}' || substr({owner}, {len(first) + 1})",
        **{name: f"{name} + {copy * seeds * _APART_SECONDS}" for name in _TIMES},
        "ordinal": f"ordinal + {copy * rows}",
    }
    if table is schema.rollouts:
        changed["body"] = f"replace(body, '{_run(0)}', '{_run(copy)}')"
    elif table is schema.rollout_tags:
        changed["value"] = f"replace(value, '{_run(0)}', '{_run(copy)}')"
    ranges = f"ordinal <= {rows} ORDER BY ordinal"
    if "ordinal" not in table.c:
        ranges = f"{owner} >= '{first}' AND {owner} < '{_prefix(1)}'"
    names = [column.name for column in table.c]
    values = ", ".join(changed.get(name, name) for name in names)
    query = f"SELECT {values} FROM {table.name} WHERE {ranges}"
    return f"INSERT INTO {table.name} ({', '.join(names)}) {query}"


def _add_copy(executor: Executor, copy: int, seeds: int) -> None:
    """Copy the seed's rows, and count them; `copy` is one more than the last one's number."""
    for table in _COPIED:
        rows = seeds
        if table.autoincrement_column is not None:
            rows = executor.select(select(func.max(table.c.ordinal)))[0][0] // copy
        executor.run(_copy_of(table, copy, seeds, rows))
        if table.autoincrement_column is not None and executor.dialect.name == "postgresql":
            sequence = f"pg_get_serial_sequence('{table.name}', 'ordinal')"
            executor.run(f"SELECT setval({sequence}, {rows * (copy + 1)})")
    totals = Totals()
    for name, count in read_totals(executor).items():
        if name != EVENTS:
            totals.add(name, count // copy)
    totals.flush(executor)


async def _fill(rows: LightningCollections, rollouts: int, spans: int) -> None:
    seeds = min(rollouts, _SEED)
    began = time.perf_counter()
    await _seed(rows, seeds, spans)
    print(f"{seeds:,} rollouts after {time.perf_counter() - began:.0f} s", flush=True)
    copies = rollouts // seeds
    for copy in range(1, copies):

        async def step(inner: Any, copy: int = copy) -> None:
            await inner.do(partial(_add_copy, copy=copy, seeds=seeds), write=True)

        await rows.execute(step)
        if copy % 10 == 9:
            print(f"{(copy + 1) * seeds:,} rollouts after {time.perf_counter() - began:.0f} s")


async def _measure(title: str, call: Callable[[], Awaitable[Any]]) -> None:
    walls: list[float] = []
    found: Any = None
    for _ in range(_REPEATS):
        began = time.perf_counter()
        found = await call()
        walls.append(time.perf_counter() - began)
    total = getattr(found, "total", "")
    shown = f"{total:,}" if isinstance(total, int) else ""
    print(f"| {title} | {min(walls) * 1000:.1f} | {max(walls) * 1000:.1f} | {shown} |", flush=True)


async def _listings(store: Any) -> None:
    listing = store.query_rollouts
    newest = (await listing(sort_by="start_time", sort_order="desc", limit=1))[0]
    desc: dict[str, Any] = {"sort_order": "desc", "limit": 100}
    for title, arguments in (
        ("first 100", {"limit": 100}),
        ("newest 100", {"sort_by": "start_time", **desc}),
        ("newest 100 after half of them", {"sort_by": "start_time", **desc, "offset": 500_000}),
        ("last ended 100", {"sort_by": "end_time", **desc}),
        ("100 by status", {"sort_by": "status", "limit": 100}),
        ("succeeded, newest 100", {"status_in": ["succeeded"], "sort_by": "start_time", **desc}),
        ("running, newest 100", {"status_in": ["running"], "sort_by": "start_time", **desc}),
        ("failed or cancelled, newest 100", {"status_in": ["failed", "cancelled"], "sort_by": "start_time", **desc}),
        ("mode val, last ended 100", {"mode_in": ["val"], "sort_by": "end_time", **desc}),
        ("mode test (rare), newest 100", {"mode_in": ["test"], "sort_by": "start_time", **desc}),
        ("mode val and failed", {"mode_in": ["val"], "status_in": ["failed"], "limit": 100}),
        ("metadata run (5 %), newest 100", {"metadata": {"run": "run-3"}, "sort_by": "start_time", **desc}),
        ("metadata task (rare)", {"metadata": {"task": 77}, "limit": 100}),
        ("id contains", {"rollout_id_contains": newest.rollout_id[-6:], "limit": 100}),
        ("100 ids", {"rollout_id_in": [newest.rollout_id] * 100}),
    ):  # fmt: skip
        await _measure(title, lambda arguments=arguments: listing(**arguments))
    oldest = (await listing(limit=1))[0].rollout_id
    await _measure("one rollout", lambda: store.get_rollout_by_id(oldest))
    await _measure("its spans", lambda: store.query_spans(oldest))
    await _measure(
        "its last 3 spans", lambda: store.query_spans(oldest, sort_order="desc", limit=3)
    )
    await _measure("statistics (facets, counts)", store.statistics)
    await _measure("look for lost attempts", store.scan)


async def _cycle(store: Any) -> None:
    async def once() -> None:
        await store.enqueue_rollout({"q": 1})
        claimed = await store.dequeue_rollout("bench")
        await store.finish_rollout(claimed.rollout_id)

    await _measure("life cycle", once)


async def main(url: str, rollouts: int, spans: int) -> None:
    """Fill the store that a URL names, unless it is full, and print a table of times."""
    store: Any = open_store(url)
    if await store.collections.rollouts.size() < rollouts:
        await _fill(store.collections, rollouts, spans)
    numbers = await store.statistics()
    size = store.path.stat().st_size / 2**30 if hasattr(store, "path") else 0.0
    print(
        f"\n{type(store).__name__}: {numbers['total_rollouts']:,} rollouts, "
        f"{numbers['total_spans']:,} spans" + (f", {size:.1f} GiB" if size else "")
    )
    print("\n| question | best ms | worst ms | matches |\n|---|---|---|---|")
    await _listings(store)
    await _cycle(store)
    await store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--spans", type=int, default=3, help="spans of each rollout")
    options = parser.parse_args()
    asyncio.run(main(options.url, options.rollouts, options.spans))
