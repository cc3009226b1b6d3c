"""Conformance: moving, checking, counting and removing whole records."""

import asyncio
import json
import math

import pytest

from agentlightning.errors import ConflictError, InvalidRequestError, StoreError
from agentlightning.store.base import LightningStore
from agentlightning.store.check import check_store
from agentlightning.store.collections.codec import encode
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.retention import READ_KEY, SPANS_REMOVED_KEY, RetentionPolicy
from agentlightning.store.transfer import KINDS, copy_store, read_records
from agentlightning.types import Attempt, PromptTemplate, Rollout, RolloutConfig, Worker
from tests.conformance.store_spans import make_span

ODD = {"nan": math.nan, "inf": -math.inf, "lone": "\ud800", "zero": "\x00", "big": 2**70}


def prompt(text: str) -> dict[str, PromptTemplate]:
    return {"p": PromptTemplate(template=text, engine="f-string")}


async def populate(store: LightningStore, prefix: str = "") -> None:
    """Leave something of every kind, in most states, with odd values."""
    await store.add_resources(prompt("one"))
    await store.update_resources(f"{prefix}rs", prompt("two"))
    await store.update_resources(f"{prefix}rs", prompt("three"))
    for index in range(7):
        await store.enqueue_rollout(
            [index, ODD] if index == 3 else index,
            mode="train" if index % 2 else "val",
            metadata={"run": index % 2, "odd": ODD},
            rollout_id=f"{prefix}ro-{9 - index}",
            config=RolloutConfig(max_attempts=2, retry_condition=["failed"]),
        )
    done, failed, running = [
        claim for _ in range(3) if (claim := await store.dequeue_rollout(f"{prefix}w"))
    ]
    spans = [make_span(running, f"s{i}", attributes={"v": math.nan, "i": i}) for i in range(5)]
    await store.add_many_spans([make_span(done, "first", sequence_id=17), *spans])
    await store.finish_rollout(done.rollout_id, reward=0.5, output={"answer": 4})
    await store.fail_rollout(failed.rollout_id, error="no luck")


async def contents(store: LightningStore) -> dict[str, list[str]]:
    """Return everything, listed by kind; what belongs to a rollout, by rollout."""
    found: dict[str, list[str]] = {}
    for kind in KINDS:
        texts = [text async for page in read_records(store, kind) for text in page]
        if kind in {"attempts", "spans"}:
            texts.sort(key=lambda text: json.loads(text)["rollout_id"])
        found[kind] = texts
    return found


async def ended(store: LightningStore, count: int, **metadata: object) -> list[str]:
    """Make rollouts that have ended, each with two spans, oldest first."""
    ids: list[str] = []
    for index in range(count):
        claim = await store.start_rollout(index, metadata={**metadata})
        await store.add_many_spans([make_span(claim, "a"), make_span(claim, "b")])
        await store.update_attempt(claim.rollout_id, "latest", status="succeeded")
        ids.append(claim.rollout_id)
    return ids


class TransferConformance:
    async def test_everything_goes_out_and_comes_in(self, store: LightningStore):
        """A copy out of a store, and one into it, hold the same records in the same order."""
        other, third = InMemoryLightningStore(), InMemoryLightningStore()
        await populate(other)
        report = await copy_store(other, store, name="a")
        assert report.counts == report.written
        assert report.counts["rollouts"] == 7
        assert report.counts["spans"] == 7
        assert report.counts["queue"] == 5
        assert report.counts["resource_versions"] == 1
        assert await contents(store) == await contents(other)
        again = await copy_store(store, third, name="b")
        assert again.fingerprints == report.fingerprints
        assert await contents(third) == await contents(other)
        mine, theirs = await store.query_rollouts(), await other.query_rollouts()
        assert [each.rollout_id for each in mine] == [each.rollout_id for each in theirs]
        await asyncio.gather(other.close(), third.close())

    async def test_a_copy_goes_on_working(self, store: LightningStore):
        """The copy's queue, counters and versions continue where the source's would have."""
        source = InMemoryLightningStore()
        await populate(source)
        await copy_store(source, store)
        for _ in range(5):
            expected, claim = await source.dequeue_rollout(), await store.dequeue_rollout()
            assert expected is not None
            assert claim is not None
            assert claim.rollout_id == expected.rollout_id
            assert claim.attempt.sequence_id == expected.attempt.sequence_id
        assert await store.dequeue_rollout() is None
        expected_spans = await source.add_span(make_span(await source.start_attempt("ro-9")))
        span = await store.add_span(make_span(await store.start_attempt("ro-9")))
        assert span is not None
        assert expected_spans is not None
        assert span.sequence_id == expected_spans.sequence_id
        assert (await store.update_resources("rs", prompt("x"))).version == 3
        assert (await store.get_resources_by_id("rs@1")) is not None
        await source.close()

    async def test_pages_follow_each_other(self, store: LightningStore):
        """Small pages hold every record once, in order, also while others are added."""
        ids = [(await store.enqueue_rollout(i)).rollout_id for i in range(7)]
        for kind in ("rollouts", "queue"):
            seen: list[str] = []
            after: str | None = None
            while True:
                page = await store.export_records(kind, after=after, limit=3)
                assert len(page.records) <= 3
                seen += [json.loads(text)["rollout_id"] for text in page.records]
                if kind == "rollouts" and len(seen) == 3:
                    ids.append((await store.enqueue_rollout("late")).rollout_id)
                if page.next is None:
                    break
                after = page.next
            assert seen == ids

    async def test_imports_may_be_repeated(self, store: LightningStore):
        """The same records again change nothing and count as nothing."""
        source = InMemoryLightningStore()
        await populate(source)
        for kind, texts in (await contents(source)).items():
            assert await store.import_records(kind, texts) == len(texts)
            assert await store.import_records(kind, texts) == 0
        assert await contents(store) == await contents(source)
        await source.close()

    async def test_a_changed_record_is_replaced(self, store: LightningStore):
        """An import takes over a record of the same id that is otherwise."""
        rollout = await store.enqueue_rollout(1)
        changed = rollout.model_copy(update={"input": "other", "start_time": 5.0})
        assert await store.import_records("rollouts", [encode(changed)]) == 1
        assert await store.get_rollout_by_id(rollout.rollout_id) == changed

    async def test_what_is_no_record_is_refused(self, store: LightningStore):
        """Unknown kinds, cursors, limits and texts are errors of the caller."""
        for kind, after, limit in (
            ("nonsense", None, 10),
            ("rollouts", "nonsense", 10),
            ("rollouts", None, 0),
            ("rollouts", None, 100_000),
        ):
            with pytest.raises(InvalidRequestError):
                await store.export_records(kind, after=after, limit=limit)
        for kind, text in (
            ("nonsense", "{}"),
            ("rollouts", "{}"),
            ("rollouts", "no JSON"),
            ("spans", "{}"),
            ("queue", "{}"),
            ("sequence_ids", '{"rollout_id":"a","value":"b"}'),
        ):
            with pytest.raises(InvalidRequestError):
                await store.import_records(kind, [text])
        assert (await store.statistics())["total_rollouts"] == 0

    async def test_a_target_that_holds_something_is_left_alone(self, store: LightningStore):
        """A copy into such a store is refused, and merged only where that is asked for."""
        source = InMemoryLightningStore()
        await populate(source)
        own = await store.enqueue_rollout("own")
        with pytest.raises(ConflictError, match="holds rollouts"):
            await copy_store(source, store)
        report = await copy_store(source, store, merge=True)
        assert report.merged
        assert (await store.statistics())["total_rollouts"] == 8
        first = await store.dequeue_rollout()
        assert first is not None
        assert first.rollout_id == own.rollout_id
        await source.close()

    async def test_an_interrupted_copy_is_finished(self, store: LightningStore):
        """The same copy again finishes; another source, or a check, notices that it is not."""
        source = InMemoryLightningStore()
        await populate(source)

        def stop(phase: str, _: int) -> None:
            if phase == "attempts":
                raise StoreError("pulled the plug")

        with pytest.raises(StoreError, match="plug"):
            await copy_store(source, store, name="source", progress=stop)
        assert "unfinished_copy" in {f.code for f in (await check_store(store)).findings}
        with pytest.raises(ConflictError, match="another source"):
            await copy_store(source, store, name="another")
        report = await copy_store(source, store, name="source")
        assert report.resumed
        assert report.written["rollouts"] == report.written["attempts"] == 0
        assert report.written["spans"] == 7
        assert await contents(store) == await contents(source)
        assert (await check_store(store)).is_sound
        await source.close()

    async def test_imported_work_wakes_who_waits(self, store: LightningStore):
        """A claim that waits gets a rollout that an import puts into the queue."""
        source = InMemoryLightningStore()
        rollout = await source.enqueue_rollout(1)
        waiting = asyncio.create_task(store.dequeue_rollout(wait_seconds=20))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(8):
            for kind, texts in (await contents(source)).items():
                await store.import_records(kind, texts)
            claim = await waiting
        assert claim is not None
        assert claim.rollout_id == rollout.rollout_id
        await source.close()


class CheckConformance:
    async def test_a_store_in_use_is_sound(self, store: LightningStore):
        """Whatever the store's own methods leave behind is in order."""
        await populate(store)
        report = await check_store(store)
        assert report.findings == []
        assert report.rollouts == 7

    async def test_faults_are_found_and_repaired(self, store: LightningStore):
        """Every planted fault is found; the repairs mend what they can and nothing else."""
        started = dict.fromkeys(("start_time", "end_time"), 1.0)
        open_since = {"start_time": 1.0}
        rollouts = [
            Rollout(rollout_id="lost", input=1, start_time=1.0, status="queuing"),
            Rollout(rollout_id="idle", input=1, status="running", **open_since),
            Rollout(rollout_id="over", input=1, status="running", **open_since),
            Rollout(rollout_id="endless", input=ODD, status="succeeded", **open_since),
            Rollout(rollout_id="twins", input=1, status="failed", **started),
            Rollout(rollout_id="pinned", input=1, status="failed", resources_id="x", **started),
            Rollout(rollout_id="left", input=1, status="cancelled", **started),
            Rollout(rollout_id="gap", input=1, status="failed", **started),
        ]
        ends = {"start_time": 1.0, "end_time": 2.0, "status": "failed"}
        attempts = [
            Attempt(rollout_id="over", attempt_id="a", sequence_id=1, **ends),
            Attempt(rollout_id="twins", attempt_id="a", sequence_id=1, **ends),
            Attempt(rollout_id="twins", attempt_id="b", sequence_id=1, **ends),
            Attempt(rollout_id="left", attempt_id="a", sequence_id=1, start_time=1.0),
            Attempt(rollout_id="gap", attempt_id="c", sequence_id=3, **ends),
            Attempt(
                rollout_id="endless",
                attempt_id="a",
                sequence_id=1,
                start_time=1.0,
                last_heartbeat_time=4.0,
                status="succeeded",
            ),
        ]
        busy = Worker(
            worker_id="w", status="busy", current_rollout_id="over", current_attempt_id="a"
        )
        span = make_span(await store.start_rollout(1), sequence_id=9)
        orphan = span.model_copy(update={"attempt_id": "none", "sequence_id": 1})
        await store.import_records("rollouts", [encode(each) for each in rollouts])
        await store.import_records("attempts", [encode(each) for each in attempts])
        await store.import_records("spans", [encode(span), encode(orphan)])
        await store.import_records("workers", [encode(busy)])
        await store.import_records("queue", ['{"rollout_id":"pinned"}'])

        report = await check_store(store)
        assert {finding.key for finding in report.findings} == {
            ("not_in_line", "lost"),
            ("stale_in_line", "pinned"),
            ("no_open_attempt", "idle"),
            ("no_open_attempt", "over"),
            ("rollout_end_time", "endless"),
            ("attempt_end_time", "endless", "a"),
            ("attempt_sequence_twice", "twins"),
            ("attempt_sequence_gap", "gap"),
            ("resources_unknown", "pinned"),
            ("open_attempt", "left", "a"),
            ("worker_busy_in_vain", "w"),
            ("spans_without_attempt", span.rollout_id, "none"),
            ("sequence_counter_low", span.rollout_id),
        }
        assert not report.is_sound
        assert report.repaired == []

        report = await check_store(store, repair=True)
        assert {finding.code for finding in report.findings} == {
            "stale_in_line",
            "attempt_sequence_twice",
            "attempt_sequence_gap",
            "resources_unknown",
            "spans_without_attempt",
        }
        assert len(report.repaired) == 8
        (text,) = [text for text in (await contents(store))["rollouts"] if "endless" in text]
        assert text == encode(rollouts[3].model_copy(update={"end_time": 4.0}))
        over = await store.get_rollout_by_id("over")
        assert over is not None
        assert over.status == "failed"
        claimed = {(await store.dequeue_rollout()).rollout_id for _ in range(2)}  # type: ignore[union-attr]
        assert claimed == {"lost", "idle"}


class RetentionConformance:
    async def test_only_what_was_read_goes(self, store: LightningStore):
        """A policy removes spans of read rollouts beyond its limit, and says what it left."""
        ids = await ended(store, 4)
        running = await store.start_rollout("running")
        await store.add_span(make_span(running))
        assert await store.mark_read([ids[0], ids[1], ids[3], running.rollout_id, "none"]) == 3
        policy = RetentionPolicy(keep_rollouts=1)
        dry = await store.apply_retention(policy, dry_run=True)
        assert (dry.rollouts, dry.unread, dry.spans) == (2, 1, 0)
        assert dry.rollout_ids == ids[:2]
        assert [len(await store.query_spans(key)) for key in ids] == [2, 2, 2, 2]
        report = await store.apply_retention(policy)
        assert (report.rollouts, report.unread, report.spans) == (2, 1, 4)
        assert [len(await store.query_spans(key)) for key in ids] == [0, 0, 2, 2]
        assert len(await store.query_spans(running.rollout_id)) == 1
        pruned = await store.get_rollout_by_id(ids[0])
        assert pruned is not None
        assert pruned.status == "succeeded"
        assert SPANS_REMOVED_KEY in (pruned.metadata or {})
        assert (await store.statistics())["removed_spans"] == 4
        assert (await store.apply_retention(policy)).rollouts == 0
        assert (await check_store(store)).findings == []

    async def test_rollouts_go_whole(self, store: LightningStore):
        """With what="rollouts" nothing of a rollout stays, and subscribers are told."""
        ids = await ended(store, 3, run=1)
        other = await ended(store, 1, run=2)
        await store.mark_read([*ids, *other])
        seq = await store.last_event_seq()
        policy = RetentionPolicy(keep_seconds=0, what="rollouts", metadata={"run": 1})
        report = await store.apply_retention(policy)
        assert (report.rollouts, report.spans) == (3, 6)
        assert [r.rollout_id for r in await store.query_rollouts()] == other
        assert list(await store.query_attempts(ids[0])) == []
        assert list(await store.query_spans(ids[0])) == []
        counts = await store.statistics()
        assert (counts["total_spans"], counts["total_attempts"]) == (2, 1)
        events = store.subscribe(since=seq, kinds=["rollout_removed"])
        async with asyncio.timeout(10):
            removed = [(await anext(events)).rollout_id for _ in range(3)]
        await events.aclose()
        assert sorted(map(str, removed)) == sorted(ids)
        assert (await check_store(store)).findings == []

    async def test_bytes_are_limited(self, store: LightningStore):
        """keep_bytes keeps the newest rollouts whose spans fit."""
        ids = await ended(store, 4)
        await store.mark_read(ids)
        whole = await store.apply_retention(RetentionPolicy(keep_bytes=0), dry_run=True)
        assert whole.bytes is not None
        assert whole.bytes > 400
        policy = RetentionPolicy(keep_bytes=int(whole.bytes * 0.6))
        assert (await store.apply_retention(policy)).rollout_ids == ids[:2]

    async def test_a_rollout_opened_again_is_unread(self, store: LightningStore):
        """What came after the mark is not removed before it was read as well."""
        (rollout_id,) = await ended(store, 1)
        await store.mark_read([rollout_id])
        again = await store.start_attempt(rollout_id)
        policy = RetentionPolicy(keep_rollouts=0)
        assert (await store.apply_retention(policy)).rollouts == 0
        await store.add_span(make_span(again))
        await store.update_attempt(rollout_id, "latest", status="succeeded")
        assert (await store.apply_retention(policy)).unread == 1
        await store.mark_read([rollout_id])
        assert (await store.apply_retention(policy)).spans == 3

    async def test_marking_twice_is_marking_once(self, store: LightningStore):
        """The mark keeps its time, and is part of the metadata."""
        (rollout_id,) = await ended(store, 1, run=1)
        assert await store.mark_read([rollout_id, rollout_id]) == 1
        first = await store.get_rollout_by_id(rollout_id)
        assert await store.mark_read([rollout_id]) == 1
        second = await store.get_rollout_by_id(rollout_id)
        assert first is not None
        assert first == second
        assert first.metadata is not None
        assert first.metadata["run"] == 1
        assert first.metadata[READ_KEY] >= (first.end_time or math.inf)


class StatisticsConformance:
    async def test_statistics_count(self, store: LightningStore):
        """Statistics have the real numbers, by status too."""
        await populate(store)
        counts = await store.statistics()
        assert counts["total_rollouts"] == 7
        assert counts["rollouts_by_status"] == {
            "queuing": 4,
            "running": 1,
            "requeuing": 1,
            "succeeded": 1,
        }
        assert counts["total_attempts"] == 3
        assert counts["total_spans"] == 7
        assert counts["total_resources"] == 2
        assert counts["total_workers"] == 1
        assert counts["queue_length"] == 5
        assert 0 <= counts["oldest_queued_seconds"] < 60
        assert counts["uptime"] >= 0
        if "storage_bytes" in counts:
            assert counts["storage_bytes"] > 4096


class UpkeepConformance(
    TransferConformance, CheckConformance, RetentionConformance, StatisticsConformance
):
    """All of these."""
