"""Conformance: statuses, retries, fencing, results, resources and workers."""

import asyncio

import pytest

from agentlightning.errors import InvalidRequestError, InvalidTransitionError, NotFoundError
from agentlightning.store.base import LightningStore
from agentlightning.types import LLM, RolloutConfig
from tests.conformance.store_claims import prompt

RETRY = RolloutConfig(max_attempts=2, retry_condition=["failed"])


class SettlementConformance:
    @pytest.mark.parametrize("status", ["succeeded", "failed"])
    async def test_attempt_settles_its_rollout(self, store: LightningStore, status: str):
        """The end of the latest attempt ends its rollout, and both get an end time."""
        started = await store.start_rollout(1)
        attempt = await store.update_attempt(started.rollout_id, "latest", status=status)
        rollout = await store.get_rollout_by_id(started.rollout_id)
        assert rollout is not None
        assert attempt.status == rollout.status == status
        assert attempt.end_time is not None
        assert rollout.end_time is not None

    async def test_settling_can_be_repeated(self, store: LightningStore):
        """Reporting the same terminal status again changes nothing."""
        started = await store.start_rollout(1)
        ids = (started.rollout_id, started.attempt.attempt_id)
        first = await store.update_attempt(*ids, status="succeeded")
        again = await store.update_attempt(*ids, status="succeeded")
        assert again == first

    async def test_failure_is_retried_at_the_tail(self, store: LightningStore):
        """A failed attempt whose status may be retried puts its rollout at the end of the queue."""
        first = await store.enqueue_rollout(1, config=RETRY)
        await store.dequeue_rollout()
        other = await store.enqueue_rollout(2)
        await store.update_attempt(first.rollout_id, "latest", status="failed")
        rollout = await store.get_rollout_by_id(first.rollout_id)
        assert rollout is not None
        assert rollout.status == "requeuing"
        claimed = await store.dequeue_many_rollouts(limit=5)
        assert [c.rollout_id for c in claimed] == [other.rollout_id, first.rollout_id]
        assert claimed[1].attempt.sequence_id == 2
        await store.update_attempt(first.rollout_id, "latest", status="failed")
        rollout = await store.get_rollout_by_id(first.rollout_id)
        assert rollout is not None
        assert rollout.status == "failed"

    async def test_cancelled_is_terminal(self, store: LightningStore):
        """A late success is kept on the attempt as late, and rollout and attempt do not move."""
        started = await store.start_rollout(1, worker_id="w")
        await store.update_rollout(started.rollout_id, status="cancelled")
        late = await store.update_attempt(started.rollout_id, "latest", status="succeeded")
        assert late.status == "failed"
        assert late.metadata == {"outcome": "cancelled", "late_status": "succeeded"}
        rollout = await store.get_rollout_by_id(started.rollout_id)
        assert rollout is not None
        assert rollout.status == "cancelled"
        with pytest.raises(InvalidTransitionError):
            await store.update_rollout(started.rollout_id, status="queuing")

    @pytest.mark.parametrize(
        ("status", "ends_as", "outcome"),
        [
            ("cancelled", "failed", "cancelled"),
            ("requeuing", "failed", "interrupted"),
            ("queuing", "failed", "interrupted"),
            ("succeeded", "succeeded", None),
            ("failed", "failed", None),
        ],
    )
    async def test_attempt_ends_when_its_rollout_is_taken_away(
        self, store: LightningStore, status: str, ends_as: str, outcome: str | None
    ):
        """Who ends or requeues a rollout ends its attempt: status, end time, reason, event."""
        started = await store.start_rollout(1, worker_id="w")
        await store.update_rollout(started.rollout_id, status=status)
        (attempt,) = await store.query_attempts(started.rollout_id)
        assert attempt.status == ends_as
        assert attempt.end_time is not None
        assert (attempt.metadata or {}).get("outcome") == outcome
        worker = await store.get_worker_by_id("w")
        assert worker is not None
        assert (worker.status, worker.current_attempt_id) == ("unknown", None)
        events = store.subscribe(since=0, kinds=["attempt_updated"])
        async with asyncio.timeout(10):
            event = await anext(events)
        await events.aclose()
        assert (event.attempt_id, event.status) == (attempt.attempt_id, ends_as)

    async def test_ended_attempt_is_not_taken_away_again(self, store: LightningStore):
        """Ending a rollout changes nothing about an attempt that has ended."""
        started = await store.start_rollout(1, config=RETRY)
        ended = await store.update_attempt(started.rollout_id, "latest", status="failed")
        await store.update_rollout(started.rollout_id, status="cancelled")
        assert list(await store.query_attempts(started.rollout_id)) == [ended]

    async def test_requeuing_fences_the_running_attempt(self, store: LightningStore):
        """After a requeue the old attempt's statuses no longer decide about the rollout."""
        queued = await store.enqueue_rollout(1)
        old = await store.dequeue_rollout("a")
        assert old is not None
        await store.update_rollout(queued.rollout_id, status="requeuing")
        await store.update_attempt(queued.rollout_id, old.attempt.attempt_id, status="failed")
        rollout = await store.get_rollout_by_id(queued.rollout_id)
        assert rollout is not None
        assert rollout.status == "requeuing"
        new = await store.dequeue_rollout("b")
        assert new is not None
        assert new.rollout_id == queued.rollout_id
        await store.update_attempt(queued.rollout_id, old.attempt.attempt_id, status="succeeded")
        rollout = await store.get_rollout_by_id(queued.rollout_id)
        assert rollout is not None
        assert rollout.status == "preparing"

    async def test_worker_stays_with_its_newer_attempt(self, store: LightningStore):
        """What is reported again about a replaced attempt does not take its worker back."""
        old = await store.start_rollout(1, worker_id="w")
        new = await store.start_attempt(old.rollout_id, "w")
        await store.update_attempt(old.rollout_id, old.attempt.attempt_id, status="preparing")
        worker = await store.get_worker_by_id("w")
        assert worker is not None
        assert worker.current_attempt_id == new.attempt.attempt_id

    async def test_late_status_is_kept_beside_the_first(self, store: LightningStore):
        """An ended attempt keeps its status; what is reported later is in its metadata."""
        started = await store.start_rollout(1)
        await store.update_attempt(started.rollout_id, "latest", status="failed")
        attempt = await store.update_attempt(
            started.rollout_id, "latest", status="succeeded", metadata={"a": 1}
        )
        assert attempt.status == "failed"
        assert attempt.metadata == {"a": 1, "late_status": "succeeded"}

    async def test_update_attempt_fields(self, store: LightningStore):
        """Worker, heartbeat and metadata are replaced, and nothing else."""
        started = await store.start_rollout(1)
        attempt = await store.update_attempt(
            started.rollout_id,
            started.attempt.attempt_id,
            worker_id="w",
            last_heartbeat_time=5.0,
            metadata={"k": [1]},
        )
        assert (attempt.worker_id, attempt.last_heartbeat_time) == ("w", 5.0)
        assert attempt.metadata == {"k": [1]}
        assert attempt.status == "preparing"
        assert await store.get_latest_attempt(started.rollout_id) == attempt

    async def test_update_rollout_fields(self, store: LightningStore):
        """Only the given fields of a rollout change; None clears."""
        queued = await store.enqueue_rollout(1, mode="train", metadata={"a": 1})
        changed = await store.update_rollout(
            queued.rollout_id, input={"n": 2}, mode=None, config=RolloutConfig(max_attempts=3)
        )
        assert changed.input == {"n": 2}
        assert changed.mode is None
        assert changed.config.max_attempts == 3
        assert changed.metadata == {"a": 1}
        assert changed.status == "queuing"

    async def test_unknown_ids_are_refused(self, store: LightningStore):
        """Writes to unknown ids raise NotFoundError, which is a ValueError; reads give nothing."""
        started = await store.start_rollout(1)
        with pytest.raises(NotFoundError):
            await store.update_rollout("ro-none", status="failed")
        with pytest.raises(NotFoundError):
            await store.update_attempt("ro-none", "latest", status="failed")
        with pytest.raises(ValueError, match="at-none"):
            await store.update_attempt(started.rollout_id, "at-none", status="failed")
        assert await store.get_rollout_by_id("ro-none") is None
        assert await store.get_latest_attempt("ro-none") is None
        assert list(await store.query_attempts("ro-none")) == []

    async def test_finish_and_fail(self, store: LightningStore):
        """finish_rollout keeps reward and output, fail_rollout keeps the error."""
        won = await store.start_rollout(1)
        lost = await store.start_rollout(2)
        finished = await store.finish_rollout(won.rollout_id, reward=0.5, output={"a": 1})
        failed = await store.fail_rollout(lost.rollout_id, error="boom")
        assert (finished.status, failed.status) == ("succeeded", "failed")
        await store.finish_rollout(won.rollout_id, reward=0.5, output={"a": 1})
        (span,) = await store.query_spans(won.rollout_id)
        assert span.attributes["agentlightning.reward.0.value"] == 0.5
        attempt = await store.get_latest_attempt(won.rollout_id)
        assert attempt is not None
        assert attempt.metadata == {"outcome": "ok", "output": {"a": 1}}
        attempt = await store.get_latest_attempt(lost.rollout_id)
        assert attempt is not None
        assert attempt.metadata is not None
        assert attempt.metadata["error"]["message"] == "boom"

    async def test_a_second_settlement_changes_nothing(self, store: LightningStore):
        """What an attempt was settled with first stands, whatever is told later."""
        lost = await store.start_rollout(1)
        await store.fail_rollout(lost.rollout_id, error="boom")
        await store.finish_rollout(lost.rollout_id, output=1)
        attempt = await store.get_latest_attempt(lost.rollout_id)
        assert attempt is not None
        assert attempt.metadata is not None
        assert attempt.status == "failed"
        assert attempt.metadata["outcome"] == "agent_error"
        assert attempt.metadata["late_status"] == "succeeded"
        assert "output" not in attempt.metadata
        won = await store.start_rollout(2)
        await store.update_attempt(won.rollout_id, "latest", status="succeeded")
        await store.finish_rollout(won.rollout_id, output=1)
        await store.finish_rollout(won.rollout_id, output=2)
        attempt = await store.get_latest_attempt(won.rollout_id)
        assert attempt is not None
        assert attempt.metadata == {"outcome": "ok", "output": 1}

    async def test_wait_is_woken_by_the_last_end(self, store: LightningStore):
        """wait_for_rollouts returns when all known rollouts ended; unknown ids do not hold it."""
        ids = [(await store.start_rollout(i)).rollout_id for i in range(3)]
        wait = asyncio.create_task(
            store.wait_for_rollouts(rollout_ids=[*ids, "ro-none"], timeout=30)
        )
        for rollout_id, status in zip(ids[::-1], ["succeeded", "failed"], strict=False):
            await store.update_attempt(rollout_id, "latest", status=status)
        await asyncio.sleep(0.05)
        assert not wait.done()
        await store.update_rollout(ids[0], status="cancelled")
        ended = await asyncio.wait_for(wait, 10)
        assert [r.rollout_id for r in ended] == ids
        assert [r.status for r in ended] == ["cancelled", "failed", "succeeded"]

    async def test_wait_returns_what_ended_in_time(self, store: LightningStore):
        """At its timeout wait_for_rollouts returns only what has ended."""
        done, open_ = await store.start_rollout(1), await store.start_rollout(2)
        await store.update_attempt(done.rollout_id, "latest", status="succeeded")
        ids = [open_.rollout_id, done.rollout_id]
        for timeout in (0, 0.05):
            ended = await store.wait_for_rollouts(rollout_ids=ids, timeout=timeout)
            assert [r.rollout_id for r in ended] == [done.rollout_id]

    async def test_resources_are_immutable_and_versioned(self, store: LightningStore):
        """An update makes the next version, and every version stays readable."""
        first = await store.add_resources(prompt("one"))
        second = await store.update_resources(first.resources_id, prompt("two"))
        assert (first.version, second.version) == (1, 2)
        assert second.create_time == first.create_time
        assert second.update_time > first.update_time
        assert await store.get_resources_by_id(first.resources_id) == second
        assert await store.get_resources_by_id(f"{first.resources_id}@1") == first
        assert await store.get_resources_by_id(f"{first.resources_id}@2") == second
        assert await store.get_resources_by_id(f"{first.resources_id}@3") is None
        assert await store.get_resources_by_id("rs-none") is None
        with pytest.raises(InvalidRequestError):
            await store.update_resources(f"{first.resources_id}@1", prompt("three"))

    async def test_latest_resources_are_the_last_written(self, store: LightningStore):
        """The latest snapshot is the one that was added or updated last."""
        assert await store.get_latest_resources() is None
        first = await store.add_resources(prompt("one"))
        named = await store.update_resources(
            "v0", {"llm": LLM(endpoint="http://h/v1", model="m", sampling_parameters={"n": 1})}
        )
        assert named.version == 1
        assert await store.get_latest_resources() == named
        updated = await store.update_resources(first.resources_id, prompt("two"))
        assert await store.get_latest_resources() == updated
        page = await store.query_resources(sort_by="update_time", sort_order="desc")
        assert [r.resources_id for r in page] == [first.resources_id, "v0"]
        assert [r.resources_id for r in await store.query_resources(resources_id="v0")] == ["v0"]
        found = await store.query_resources(resources_id_contains="rs-")
        assert [r.resources_id for r in found] == [first.resources_id]

    async def test_workers_report_themselves(self, store: LightningStore):
        """update_worker adds a worker as unknown, and keeps its last heartbeat and statistics."""
        worker = await store.update_worker("w-1", {"cpu": 0.5})
        assert worker.status == "unknown"
        assert worker.last_heartbeat_time is not None
        again = await store.update_worker("w-1")
        assert again.heartbeat_stats == {"cpu": 0.5}
        await store.dequeue_rollout("w-2")
        found = await store.query_workers(status_in=["idle"])
        assert [w.worker_id for w in found] == ["w-2"]
        found = await store.query_workers(
            status_in=["idle"], worker_id_contains="-1", filter_logic="or", sort_by="worker_id"
        )
        assert [w.worker_id for w in found] == ["w-1", "w-2"]
        assert await store.get_worker_by_id("w-none") is None
