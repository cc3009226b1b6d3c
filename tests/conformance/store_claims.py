"""Conformance: making, claiming and losing rollouts."""

import asyncio

import pytest

from agentlightning.errors import InvalidTransitionError, NotFoundError
from agentlightning.store.base import LightningStore
from agentlightning.types import EnqueueRolloutRequest, PromptTemplate, RolloutConfig


def prompt(text: str) -> dict[str, PromptTemplate]:
    return {"prompt": PromptTemplate(template=text, engine="f-string")}


class ClaimConformance:
    async def test_start_gives_a_first_attempt(self, store: LightningStore):
        """start_rollout makes a preparing rollout with attempt 1, past the queue."""
        started = await store.start_rollout({"q": 1}, mode="val", metadata={"a": 1}, worker_id="w")
        assert started.status == "preparing"
        assert started.input == {"q": 1}
        assert started.mode == "val"
        assert started.metadata == {"a": 1}
        assert started.attempt.sequence_id == 1
        assert started.attempt.status == "preparing"
        assert started.attempt.worker_id == "w"
        assert started.attempt.start_time == started.start_time
        assert await store.dequeue_rollout() is None
        worker = await store.get_worker_by_id("w")
        assert worker is not None
        assert worker.status == "busy"
        assert worker.current_attempt_id == started.attempt.attempt_id

    async def test_queue_is_first_in_first_out(self, store: LightningStore):
        """Rollouts are claimed in the order in which they were enqueued."""
        queued = [await store.enqueue_rollout(i) for i in range(3)]
        assert [r.status for r in queued] == ["queuing"] * 3
        claimed = [await store.dequeue_rollout() for _ in range(4)]
        assert [c and c.rollout_id for c in claimed] == [*(r.rollout_id for r in queued), None]

    async def test_enqueue_many_keeps_order(self, store: LightningStore):
        """enqueue_many_rollouts returns and queues its rollouts in the order given."""
        requests = [EnqueueRolloutRequest(input=i, mode="train") for i in range(5)]
        queued = await store.enqueue_many_rollouts(requests)
        assert [r.input for r in queued] == list(range(5))
        claimed = await store.dequeue_many_rollouts(limit=3)
        assert [c.input for c in claimed] == [0, 1, 2]
        claimed = await store.dequeue_many_rollouts(limit=9)
        assert [c.input for c in claimed] == [3, 4]
        assert list(await store.dequeue_many_rollouts(limit=0)) == []

    async def test_enqueue_with_an_id_can_be_repeated(self, store: LightningStore):
        """Enqueueing a caller-made id again returns the stored rollout and queues nothing."""
        first = await store.enqueue_rollout("a", rollout_id="ro-mine")
        claimed = await store.dequeue_rollout()
        assert claimed is not None
        again = await store.enqueue_rollout("b", rollout_id="ro-mine")
        assert first.rollout_id == again.rollout_id == "ro-mine"
        assert again.input == "a"
        assert again.status == "preparing"
        assert await store.dequeue_rollout() is None

    async def test_claim_marks_the_worker(self, store: LightningStore):
        """A claim makes its worker busy, and an empty queue makes a free worker idle."""
        assert await store.dequeue_rollout("w") is None
        worker = await store.get_worker_by_id("w")
        assert worker is not None
        assert worker.status == "idle"
        assert worker.last_dequeue_time is not None
        assert worker.last_idle_time is not None
        await store.enqueue_rollout(1)
        claimed = await store.dequeue_rollout("w")
        assert claimed is not None
        assert claimed.attempt.worker_id == "w"
        worker = await store.get_worker_by_id("w")
        assert worker is not None
        assert worker.status == "busy"
        assert worker.current_rollout_id == claimed.rollout_id
        await store.update_attempt(claimed.rollout_id, "latest", status="succeeded")
        worker = await store.get_worker_by_id("w")
        assert worker is not None
        assert worker.status == "idle"
        assert worker.current_rollout_id is None

    async def test_working_worker_stays_busy_when_the_queue_is_empty(self, store: LightningStore):
        """A worker that asks for more while it works is not taken for idle."""
        await store.enqueue_rollout(1)
        assert await store.dequeue_rollout("w") is not None
        assert await store.dequeue_rollout("w") is None
        worker = await store.get_worker_by_id("w")
        assert worker is not None
        assert worker.status == "busy"

    async def test_cancelled_rollouts_are_not_claimed(self, store: LightningStore):
        """A rollout that was cancelled while queued is skipped."""
        gone = await store.enqueue_rollout(1)
        kept = await store.enqueue_rollout(2)
        await store.update_rollout(gone.rollout_id, status="cancelled")
        claimed = await store.dequeue_rollout()
        assert claimed is not None
        assert claimed.rollout_id == kept.rollout_id

    async def test_waiting_claim_is_woken(self, store: LightningStore):
        """A waiting claim returns as soon as something is enqueued."""
        claim = asyncio.create_task(store.dequeue_rollout("w", wait_seconds=30))
        await asyncio.sleep(0.05)
        queued = await store.enqueue_rollout(1)
        claimed = await asyncio.wait_for(claim, 10)
        assert claimed is not None
        assert claimed.rollout_id == queued.rollout_id

    async def test_waiting_claim_gives_up(self, store: LightningStore):
        """A waiting claim returns None when its time is over."""
        assert await asyncio.wait_for(store.dequeue_rollout(wait_seconds=0.05), 10) is None
        assert not await asyncio.wait_for(store.dequeue_many_rollouts(wait_seconds=0.05), 10)

    async def test_waiting_claims_share_work(self, store: LightningStore):
        """Of several waiting claims each gets a rollout of its own."""
        claims = [
            asyncio.create_task(store.dequeue_rollout(f"w{i}", wait_seconds=30)) for i in range(4)
        ]
        await asyncio.sleep(0.05)
        await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(4)])
        claimed = await asyncio.wait_for(asyncio.gather(*claims), 10)
        assert sorted(c.input for c in claimed if c is not None) == [0, 1, 2, 3]

    async def test_latest_resources_are_pinned_when_enqueued(self, store: LightningStore):
        """A rollout is pinned to the snapshot that is the latest when it is enqueued."""
        old = await store.add_resources(prompt("old"))
        queued = await store.enqueue_rollout(1)
        await store.add_resources(prompt("new"))
        claimed = await store.dequeue_rollout()
        assert claimed is not None
        assert queued.resources_id == claimed.resources_id == old.resources_id

    async def test_resources_are_resolved_at_the_claim_if_there_were_none(
        self, store: LightningStore
    ):
        """A rollout from before the first snapshot is pinned when it is claimed."""
        queued = await store.enqueue_rollout(1)
        assert queued.resources_id is None
        first = await store.add_resources(prompt("first"))
        claimed = await store.dequeue_rollout()
        assert claimed is not None
        assert claimed.resources_id == first.resources_id
        stored = await store.get_rollout_by_id(queued.rollout_id)
        assert stored is not None
        assert stored.resources_id == first.resources_id

    async def test_start_attempt_ignores_retry_settings(self, store: LightningStore):
        """start_attempt makes another attempt, also of a failed rollout."""
        started = await store.start_rollout(1)
        await store.update_attempt(started.rollout_id, "latest", status="failed")
        again = await store.start_attempt(started.rollout_id, worker_id="w")
        assert again.attempt.sequence_id == 2
        assert again.status == "preparing"
        assert again.end_time is None

    async def test_start_attempt_refuses(self, store: LightningStore):
        """start_attempt refuses unknown and cancelled rollouts."""
        with pytest.raises(NotFoundError):
            await store.start_attempt("ro-none")
        queued = await store.enqueue_rollout(1)
        await store.update_rollout(queued.rollout_id, status="cancelled")
        with pytest.raises(InvalidTransitionError):
            await store.start_attempt(queued.rollout_id)

    async def test_silent_attempt_is_taken_away(self, store: LightningStore):
        """A lease that is not renewed ends the attempt, and the rollout goes to somebody else."""
        config = RolloutConfig(
            unresponsive_seconds=0.1, max_attempts=2, retry_condition=["unresponsive"]
        )
        queued = await store.enqueue_rollout(1, config=config)
        first = await store.dequeue_rollout("a")
        assert first is not None
        second = await store.dequeue_rollout("b", wait_seconds=30)
        assert second is not None
        assert second.rollout_id == queued.rollout_id
        assert second.attempt.sequence_id == 2
        lost, *_ = await store.query_attempts(queued.rollout_id)
        assert lost.status == "unresponsive"
        assert lost.end_time is not None
        worker = await store.get_worker_by_id("a")
        assert worker is not None
        assert worker.status == "unknown"

    async def test_overlong_attempt_times_out(self, store: LightningStore):
        """An attempt beyond its time limit ends its rollout, while nobody calls the store."""
        started = await store.start_rollout(1, config=RolloutConfig(timeout_seconds=0.1))
        ended = await store.wait_for_rollouts(rollout_ids=[started.rollout_id], timeout=30)
        assert [r.status for r in ended] == ["failed"]
        attempt = await store.get_latest_attempt(started.rollout_id)
        assert attempt is not None
        assert attempt.status == "timeout"
        assert attempt.end_time is not None
