"""One suite for every store: derive from `StoreConformance` and give an async `store` fixture."""

import asyncio

import pytest

from agentlightning.errors import ConflictError, InvalidRequestError
from agentlightning.store.base import LightningStore
from agentlightning.types import AttemptedRollout, PaginatedResult
from tests.conformance.store_claims import ClaimConformance
from tests.conformance.store_leases import (
    ConcurrencyConformance,
    LeaseConformance,
    RepeatConformance,
    ReplyConformance,
)
from tests.conformance.store_settlement import SettlementConformance
from tests.conformance.store_spans import SpanConformance, make_span
from tests.conformance.store_upkeep import UpkeepConformance


class QueryConformance:
    async def test_query_rollouts_filters(self, store: LightningStore):
        """Rollouts are filtered by status, id and mode, joined by and / or."""
        a = await store.enqueue_rollout(1, mode="train", rollout_id="ro-xa")
        b = await store.start_rollout(2, mode="val")
        c = await store.enqueue_rollout(3, rollout_id="ro-xc")
        ids = {a.rollout_id: "a", b.rollout_id: "b", c.rollout_id: "c"}

        async def found(**filters):
            return [ids[r.rollout_id] for r in await store.query_rollouts(**filters)]

        assert await found() == ["a", "b", "c"]
        assert await found(status_in=["queuing"]) == ["a", "c"]
        assert await found(status_in=["preparing", "queuing"]) == ["a", "b", "c"]
        assert await found(rollout_id_in=["ro-xc", "ro-xa", "ro-none"]) in (["a", "c"], ["c", "a"])
        assert await found(rollout_id_contains="xc") == ["c"]
        assert await found(mode_in=["train", "val"]) == ["a", "b"]
        assert await found(status_in=["queuing"], mode_in=["train"]) == ["a"]
        assert await found(
            status_in=["preparing"], rollout_id_contains="xc", filter_logic="or"
        ) == ["b", "c"]
        assert await found(filter_logic="or") == ["a", "b", "c"]
        assert await found(status_in=["failed"]) == []

    async def test_query_rollouts_attaches_the_latest_attempt(self, store: LightningStore):
        """A rollout with attempts comes with its latest one, others come without."""
        queued = await store.enqueue_rollout(1)
        started = await store.start_rollout(2)
        again = await store.start_attempt(started.rollout_id)
        first, second = await store.query_rollouts()
        assert not isinstance(first, AttemptedRollout)
        assert first.rollout_id == queued.rollout_id
        assert isinstance(second, AttemptedRollout)
        assert second.attempt == again.attempt
        one = await store.get_rollout_by_id(started.rollout_id)
        assert one == second

    async def test_query_rollouts_pages(self, store: LightningStore):
        """Pages hold what they should, and tell how much there is in all."""
        for i in range(5):
            await store.enqueue_rollout(i, rollout_id=f"ro-{4 - i}")
        page = await store.query_rollouts(sort_by="rollout_id", limit=2, offset=1)
        assert isinstance(page, PaginatedResult)
        assert [r.rollout_id for r in page] == ["ro-1", "ro-2"]
        assert (page.total, page.limit, page.offset) == (5, 2, 1)
        page = await store.query_rollouts(sort_by="start_time", sort_order="desc", limit=1)
        assert [r.rollout_id for r in page] == ["ro-0"]
        page = await store.query_rollouts(limit=3, offset=4)
        assert [r.rollout_id for r in page] == ["ro-0"]

    async def test_missing_values_sort_as_their_kind_says(self, store: LightningStore):
        """None sorts as the empty string in texts, and as infinity in times."""
        a = await store.start_rollout(1, mode="val")
        b = await store.enqueue_rollout(2)
        await store.update_attempt(a.rollout_id, "latest", status="succeeded")
        by_mode = await store.query_rollouts(sort_by="mode")
        assert [r.rollout_id for r in by_mode] == [b.rollout_id, a.rollout_id]
        by_end = await store.query_rollouts(sort_by="end_time")
        assert [r.rollout_id for r in by_end] == [a.rollout_id, b.rollout_id]

    async def test_unsortable_field_is_refused(self, store: LightningStore):
        """Sorting by a field that does not exist or has no order is an error."""
        await store.start_rollout(1)
        for field in ("nonsense", "metadata"):
            with pytest.raises(InvalidRequestError):
                await store.query_rollouts(sort_by=field)

    async def test_query_attempts_pages(self, store: LightningStore):
        """Attempts come in their order, and can be sorted and paged."""
        started = await store.start_rollout(1)
        for _ in range(2):
            await store.start_attempt(started.rollout_id)
        attempts = await store.query_attempts(started.rollout_id)
        assert [a.sequence_id for a in attempts] == [1, 2, 3]
        page = await store.query_attempts(started.rollout_id, sort_order="desc", limit=1, offset=1)
        assert [a.sequence_id for a in page] == [2]
        assert page.total == 3

    async def test_any_json_value_is_an_input(self, store: LightningStore):
        """Inputs and metadata come back as they went in."""
        for value in (None, 0, "", [1, {"a": None}], {"k": {"n": [1.5, True]}}, "\u20ac"):
            queued = await store.enqueue_rollout(value, metadata={"v": value})
            stored = await store.get_rollout_by_id(queued.rollout_id)
            assert stored is not None
            assert stored.input == value
            assert stored.metadata == {"v": value}

    async def test_statistics_count(self, store: LightningStore):
        """Statistics tell how many of each there are."""
        started = await store.start_rollout(1, worker_id="w")
        await store.add_many_spans([make_span(started), make_span(started)])
        await store.update_resources("v", {})
        counts = await store.statistics()
        assert counts["total_rollouts"] == counts["total_attempts"] == 1
        assert counts["total_spans"] == 2
        assert counts["total_resources"] == counts["total_workers"] == 1


class EventConformance:
    async def test_events_replay_in_order(self, store: LightningStore):
        """Everything that happened to a rollout can be replayed, in order, without a gap."""
        queued = await store.enqueue_rollout(1, mode="train", metadata={"kind": "a"})
        claimed = await store.dequeue_rollout("w")
        assert claimed is not None
        await store.add_span(make_span(claimed))
        await store.update_attempt(queued.rollout_id, "latest", status="succeeded")
        seen = []
        events = store.subscribe(since=0)
        async with asyncio.timeout(10):
            async for event in events:
                seen.append(event)
                if event.kind == "rollout_updated" and event.status == "succeeded":
                    break
        await events.aclose()
        assert [event.seq for event in seen] == sorted({event.seq for event in seen})
        mine = [(event.kind, event.status) for event in seen if event.kind.startswith("rollout")]
        assert mine == [
            ("rollout_created", "queuing"),
            ("rollout_updated", "preparing"),
            ("rollout_updated", "running"),
            ("rollout_updated", "succeeded"),
        ]
        assert [e.data["count"] for e in seen if e.kind == "spans_added"] == [1]
        assert {e.rollout_id for e in seen} == {queued.rollout_id}

    async def test_events_resume_where_they_stopped(self, store: LightningStore):
        """A subscriber that names the last event it saw misses none and gets none twice."""
        await store.enqueue_rollout(1)
        await store.enqueue_rollout(2)
        events = store.subscribe(since=0)
        async with asyncio.timeout(10):
            first = await anext(events)
        await events.aclose()
        await store.enqueue_rollout(3)
        rest = store.subscribe(since=first.seq)
        async with asyncio.timeout(10):
            following = [await anext(rest), await anext(rest)]
        await rest.aclose()
        assert [e.seq for e in following] == [first.seq + 1, first.seq + 2]

    async def test_subscriber_is_woken_and_filters(self, store: LightningStore):
        """A subscriber gets the kinds and the rollouts it asked for, as they happen."""
        await store.enqueue_rollout(0, metadata={"task": "math", "n": 1})
        events = store.subscribe(since=0, kinds=["rollout_created"], metadata={"task": "math"})
        async with asyncio.timeout(10):
            assert (await anext(events)).data["metadata"]["n"] == 1
            later = asyncio.create_task(anext(events))
            await asyncio.sleep(0.05)
            await store.enqueue_rollout(1, metadata={"task": "poem"})
            await store.start_rollout(2)
            wanted = await store.enqueue_rollout(3, metadata={"task": "math", "n": 2})
            event = await later
        await events.aclose()
        assert event.rollout_id == wanted.rollout_id

    async def test_a_cursor_of_another_store_is_refused(self, store: LightningStore):
        """Following from an event that is yet to come is an error, not silence."""
        await store.enqueue_rollout(0)
        events = store.subscribe(since=await store.last_event_seq() + 5)
        with pytest.raises(ConflictError, match="another store"):
            async with asyncio.timeout(10):
                await anext(events)
        await events.aclose()

    async def test_newest_number_is_where_readers_begin(self, store: LightningStore):
        """last_event_seq is 0 at first, then the number of the newest event."""
        assert await store.last_event_seq() == 0
        await store.enqueue_rollout(1)
        seq = await store.last_event_seq()
        assert seq > 0
        later = await store.enqueue_rollout(2)
        events = store.subscribe(since=seq)
        async with asyncio.timeout(10):
            assert (await anext(events)).rollout_id == later.rollout_id
        await events.aclose()


class OldConformance(
    ClaimConformance,
    SettlementConformance,
    SpanConformance,
    QueryConformance,
    EventConformance,
    LeaseConformance,
    RepeatConformance,
    ConcurrencyConformance,
):
    """What stores pass whose backend is as 0.3.0 asked for: no replies, no superseded versions."""


class StoreConformance(OldConformance, ReplyConformance, UpkeepConformance):
    """Every store passes these; a subclass named `Test...` provides the async fixture `store`."""
