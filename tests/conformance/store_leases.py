"""Conformance: leases, caller-made ids, and calls that are repeated with an idempotency key."""

import asyncio
import uuid

import pytest

from agentlightning.errors import ConflictError, InvalidRequestError, NotFoundError
from agentlightning.store.base import LightningStore
from agentlightning.store.idempotency import idempotency_key
from agentlightning.store.lifecycle import LOST_WORKERS_ALLOWED, lease_end
from agentlightning.types import RolloutConfig
from tests.conformance.store_claims import prompt
from tests.conformance.store_spans import make_span

SHORT = 0.1
"""A lease that a test waits out."""
LONG = 600.0


class LeaseConformance:
    async def test_lost_worker_is_replaced(self, store: LightningStore):
        """A lease that runs out requeues the rollout whatever its retry settings say."""
        queued = await store.enqueue_rollout(1)
        first = await store.dequeue_rollout("a", lease_seconds=SHORT)
        assert first is not None
        assert first.attempt.lease_seconds == SHORT
        second = await store.dequeue_rollout("b", wait_seconds=30, lease_seconds=LONG)
        assert second is not None
        assert second.rollout_id == queued.rollout_id
        assert second.attempt.sequence_id == 2
        lost, now = await store.query_attempts(queued.rollout_id)
        assert lost.status == "unresponsive"
        assert lost.end_time is not None
        assert (now.status, now.lease_seconds) == ("preparing", LONG)

    async def test_stale_worker_changes_nothing(self, store: LightningStore):
        """What comes from a worker after its lease ran out is kept, marked late, and has no say."""
        queued = await store.enqueue_rollout(1)
        old = await store.dequeue_rollout("a", lease_seconds=SHORT)
        assert old is not None
        new = await store.dequeue_rollout("b", wait_seconds=30, lease_seconds=LONG)
        assert new is not None
        late = await store.add_span(make_span(old))
        assert late is not None
        assert late.attributes["agentlightning.late"] is True
        told = await store.update_attempt(
            queued.rollout_id, old.attempt.attempt_id, status="succeeded"
        )
        assert told.status == "unresponsive"
        assert told.metadata == {"late_status": "succeeded"}
        rollout = await store.get_rollout_by_id(queued.rollout_id)
        assert rollout is not None
        assert rollout.status == "preparing"
        await store.update_attempt(queued.rollout_id, new.attempt.attempt_id, status="failed")
        rollout = await store.get_rollout_by_id(queued.rollout_id)
        assert rollout is not None
        assert rollout.status == "failed"

    async def test_overtaken_attempt_ends(self, store: LightningStore):
        """Starting another attempt takes the rollout from whoever works on it, as a requeue does:
        their attempt ends, and what they write later is kept, marked late, and has no say.
        """
        old = await store.start_rollout(1, worker_id="a", lease_seconds=LONG)
        await store.add_span(make_span(old))
        new = await store.start_attempt(old.rollout_id, "b", lease_seconds=LONG)
        worker = await store.get_worker_by_id("a")
        assert worker is not None
        assert (worker.status, worker.current_attempt_id) == ("unknown", None)
        ids = (old.rollout_id, old.attempt.attempt_id)
        renewed = await store.update_attempt(*ids, last_heartbeat_time=1.0)
        assert (renewed.status, renewed.metadata) == ("failed", {"outcome": "interrupted"})
        assert renewed.end_time is not None
        late = await store.add_span(make_span(old))
        assert late is not None
        assert late.attributes["agentlightning.late"] is True
        told = await store.update_attempt(*ids, status="succeeded")
        assert (told.status, told.end_time) == ("failed", renewed.end_time)
        assert told.metadata == {"outcome": "interrupted", "late_status": "succeeded"}
        rollout = await store.get_rollout_by_id(old.rollout_id)
        assert rollout == new
        await store.finish_rollout(old.rollout_id)
        first, second = await store.query_attempts(old.rollout_id)
        assert (first, second.status) == (told, "succeeded")

    async def test_signs_of_life_renew_the_lease(self, store: LightningStore):
        """Spans and heartbeats move a lease's end, and the worker's clock does not matter."""
        started = await store.start_rollout(1, lease_seconds=LONG)
        ends = [lease_end(started.attempt)]
        for turn in range(4):
            if turn % 2:
                await store.add_span(make_span(started))
            else:
                await store.update_attempt(
                    started.rollout_id, started.attempt.attempt_id, last_heartbeat_time=1.0
                )
            attempt = await store.get_latest_attempt(started.rollout_id)
            assert attempt is not None
            ends.append(lease_end(attempt))
        assert ends == sorted({end for end in ends if end is not None})
        assert attempt.status == "running"

    async def test_task_that_kills_its_workers_ends(self, store: LightningStore):
        """A rollout that loses its workers again and again fails in the end."""
        queued = await store.enqueue_rollout(1)
        for number in range(1, 2 + LOST_WORKERS_ALLOWED):
            claimed = await store.dequeue_rollout(wait_seconds=30, lease_seconds=SHORT / 4)
            assert claimed is not None
            assert claimed.attempt.sequence_id == number
        (ended,) = await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=30)
        assert ended.status == "failed"
        assert await store.dequeue_rollout() is None

    async def test_time_limit_is_not_a_lost_worker(self, store: LightningStore):
        """An attempt that times out follows the retry settings, lease or not."""
        config = RolloutConfig(timeout_seconds=SHORT)
        queued = await store.enqueue_rollout(1, config=config)
        await store.dequeue_rollout(lease_seconds=LONG)
        (ended,) = await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=30)
        assert ended.status == "failed"

    async def test_claims_without_a_lease_look_as_ever(self, store: LightningStore):
        """The field is not in JSON unless there is a lease; leases are positive."""
        started = await store.start_rollout(1)
        assert started.attempt.lease_seconds is None
        assert "lease_seconds" not in started.model_dump()["attempt"]
        again = await store.start_attempt(started.rollout_id, lease_seconds=LONG)
        assert again.model_dump()["attempt"]["lease_seconds"] == LONG
        for seconds in (0.0, -1.0):
            with pytest.raises(InvalidRequestError):
                await store.dequeue_rollout(lease_seconds=seconds)

    async def test_claims_can_ask_for_metadata(self, store: LightningStore):
        """A filtered claim takes the first that matches, and leaves the others in line."""
        for number, metadata in enumerate(
            [{"algo": "a"}, {"algo": "b", "n": 1}, None, {"algo": "b", "n": 2}, {"algo": "b"}]
        ):
            await store.enqueue_rollout(number, metadata=metadata)

        async def claim(**metadata):
            return [c.input for c in await store.dequeue_many_rollouts(limit=2, metadata=metadata)]

        assert await claim(algo="c") == []
        assert await claim(algo="b", n=2) == [3]
        assert await claim(algo="b") == [1, 4]
        assert await claim(algo="b") == []
        assert await claim() == [0, 2]

    async def test_waiting_filtered_claim_is_woken(self, store: LightningStore):
        """Claims that wait for different metadata share one store, each gets its own."""
        claims = [
            asyncio.create_task(
                store.dequeue_rollout(name, wait_seconds=30, metadata={"algo": name})
            )
            for name in ("a", "b")
        ]
        await asyncio.sleep(0.05)
        # The one for whom the first rollout is not must not keep the other from it.
        for name, claim in zip("ba", reversed(claims), strict=True):
            await store.enqueue_rollout(name, metadata={"algo": name})
            await asyncio.wait_for(asyncio.shield(claim), 9)
        claimed = [claim.result() for claim in claims]
        assert [c.input for c in claimed if c is not None] == ["a", "b"]

    async def test_rollouts_can_be_found_by_metadata(self, store: LightningStore):
        """query_rollouts compares the given keys exactly, as one filter among the others."""
        for number, metadata in enumerate([{"k": 1, "x": 0}, {"k": 2}, {}, None, {"k": [1]}]):
            await store.enqueue_rollout(number, metadata=metadata, rollout_id=f"ro-{number}")

        async def found(**filters):
            return [r.input for r in await store.query_rollouts(**filters)]

        assert await found(metadata={"k": 1}) == [0]
        assert await found(metadata={"k": [1]}) == [4]
        assert await found(metadata={"k": 1, "x": 1}) == []
        assert await found(metadata={}) == [0, 1, 2, 3, 4]
        assert await found(metadata={"k": 2}, rollout_id_in=["ro-3"], filter_logic="or") == [1, 3]
        page = await store.query_rollouts(metadata={"x": 0}, limit=0)
        assert page.total == 1


class RepeatConformance:
    async def test_start_with_a_known_id(self, store: LightningStore):
        """Starting a caller-made id again returns what there is; one that only waits is refused."""
        first = await store.start_rollout("a", rollout_id="ro-mine")
        again = await store.start_rollout("b", rollout_id="ro-mine")
        assert again == first
        await store.enqueue_rollout("c", rollout_id="ro-other")
        with pytest.raises(ConflictError):
            await store.start_rollout("c", rollout_id="ro-other")

    async def test_start_attempt_with_a_known_id(self, store: LightningStore):
        """Starting a caller-made attempt again returns it, and makes no other."""
        started = await store.start_rollout(1)
        first = await store.start_attempt(started.rollout_id, attempt_id="at-mine")
        again = await store.start_attempt(started.rollout_id, attempt_id="at-mine")
        assert again == first
        assert first.attempt.attempt_id == "at-mine"
        assert len(await store.query_attempts(started.rollout_id)) == 2

    async def test_add_resources_with_a_known_id(self, store: LightningStore):
        """Publishing under a caller-made id again returns what was published."""
        first = await store.add_resources(prompt("one"), resources_id="rs-mine")
        again = await store.add_resources(prompt("two"), resources_id="rs-mine")
        assert again == first
        assert first.resources_id == "rs-mine"
        with pytest.raises(InvalidRequestError):
            await store.add_resources(prompt("one"), resources_id="rs-mine@3")

    async def test_failed_call_leaves_nothing(self, store: LightningStore):
        """A call that raised has written nothing, whatever it had found in order before."""
        started = await store.start_rollout(1)
        stray = make_span(started).model_copy(update={"attempt_id": "at-none"})
        with pytest.raises(NotFoundError):
            await store.add_many_spans([make_span(started), make_span(started), stray])
        assert await store.get_next_span_sequence_id(started.rollout_id, "x") == 1
        assert (await store.statistics())["total_spans"] == 0
        rollout = await store.get_rollout_by_id(started.rollout_id)
        assert rollout is not None
        assert rollout.status == "preparing"


class ReplyConformance:
    def keyed(self, name: str):
        """Give the calls within a key of this test; the databases of other tests may be its own."""
        run = vars(self).setdefault("run", uuid.uuid4().hex)
        return idempotency_key(f"{run}-{name}")

    async def test_repeated_claim_gets_the_same_work(self, store: LightningStore):
        """A claim whose answer was lost is repeated by its key: the same attempts, no others."""
        for number in range(3):
            await store.enqueue_rollout(number)
        with self.keyed("claim-1"):
            first = await store.dequeue_many_rollouts(limit=2, worker_id="w", lease_seconds=LONG)
        await store.add_span(make_span(first[0]))
        with self.keyed("claim-1"):
            again = await store.dequeue_many_rollouts(limit=2, worker_id="w", lease_seconds=LONG)
        ids = [(c.rollout_id, c.attempt.attempt_id) for c in first]
        assert [(c.rollout_id, c.attempt.attempt_id) for c in again] == ids
        assert [c.status for c in again] == ["running", "preparing"]
        with self.keyed("claim-2"):
            other = await store.dequeue_many_rollouts(limit=2)
        assert [c.input for c in other] == [2]

    async def test_repeated_claim_leaves_out_what_was_lost(self, store: LightningStore):
        """Nobody is handed an attempt that was taken away before they knew that they had it; who
        has lost all of them gets others, and the same ones whenever they ask again.
        """
        for number in range(2):
            await store.enqueue_rollout(number)

        async def claim():
            with self.keyed("claim"):
                claims = await store.dequeue_many_rollouts(limit=2, lease_seconds=LONG)
            return [(claim.input, claim.attempt.sequence_id) for claim in claims]

        assert await claim() == [(0, 1), (1, 1)]
        first, second = [rollout.rollout_id for rollout in await store.query_rollouts()]
        await store.update_rollout(first, status="requeuing")
        assert await claim() == [(1, 1)]
        await store.start_attempt(second)
        for _ in range(2):
            assert await claim() == [(0, 2)]
        await store.finish_rollout(first)
        assert await claim() == []

    async def test_repeated_claim_that_found_nothing_looks_again(self, store: LightningStore):
        """An empty answer is no claim, so the same key may find work later."""
        with self.keyed("claim"):
            assert await store.dequeue_rollout() is None
        queued = await store.enqueue_rollout(1)
        for _ in range(2):
            with self.keyed("claim"):
                claimed = await store.dequeue_rollout()
            assert claimed is not None
            assert claimed.rollout_id == queued.rollout_id

    async def test_repeated_calls_do_nothing_new(self, store: LightningStore):
        """Every call whose result the store chooses gives the same result for the same key."""
        started = await store.start_rollout(0)
        ids = (started.rollout_id, started.attempt.attempt_id)
        calls = {
            "start": lambda: store.start_rollout(1, worker_id="w"),
            "enqueue": lambda: store.enqueue_rollout(2),
            "attempt": lambda: store.start_attempt(started.rollout_id),
            "number": lambda: store.get_next_span_sequence_id(*ids),
            "numbers": lambda: store.get_many_span_sequence_ids([ids, ids]),
            "add": lambda: store.add_resources(prompt("a")),
            "update": lambda: store.update_resources("v", prompt("b")),
        }
        for key, call in calls.items():
            with self.keyed(key):
                first = await call()
                again = await call()
            assert again == first, key
        assert (await store.query_rollouts(limit=0)).total == 3
        assert len(await store.query_attempts(started.rollout_id)) == 2
        assert await store.get_next_span_sequence_id(*ids) == 4
        newest = await store.get_latest_resources()
        assert newest is not None
        assert newest.version == 1

    async def test_repeat_reads_the_version_it_published(self, store: LightningStore):
        """The answer to a repeated update is its own version, also when there is a newer one."""
        with self.keyed("update"):
            first = await store.update_resources("v", prompt("one"))
        second = await store.update_resources("v", prompt("two"))
        with self.keyed("update"):
            assert await store.update_resources("v", prompt("one")) == first
        assert await store.get_latest_resources() == second

    async def test_repeated_requeue_does_not_fence_the_next_worker(self, store: LightningStore):
        """A requeue that is repeated after somebody claimed the rollout takes nothing away."""
        started = await store.start_rollout(1)
        with self.keyed("requeue"):
            await store.update_rollout(started.rollout_id, status="requeuing")
        claimed = await store.dequeue_rollout("b")
        assert claimed is not None
        with self.keyed("requeue"):
            rollout = await store.update_rollout(started.rollout_id, status="requeuing")
        assert rollout.status == "preparing"
        assert await store.dequeue_rollout() is None

    async def test_repeated_settling_of_the_latest_spares_the_next(self, store: LightningStore):
        """Settling "the latest" attempt, repeated after a retry began, does not settle that one."""
        config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
        queued = await store.enqueue_rollout(1, config=config)
        await store.dequeue_rollout()
        settle = {
            "update": lambda: store.update_attempt(queued.rollout_id, "latest", status="failed"),
            "fail": lambda: store.fail_rollout(queued.rollout_id, error="boom"),
        }
        for key, call in settle.items():
            with self.keyed(key):
                await call()
            claimed = await store.dequeue_rollout()
            if claimed is None:
                break
            with self.keyed(key):
                await call()
            attempt = await store.get_latest_attempt(queued.rollout_id)
            assert attempt is not None
            assert attempt.status == "preparing", key

    async def test_failed_call_may_be_repeated(self, store: LightningStore):
        """A call that raised is not remembered under its key."""
        with self.keyed("attempt"):
            with pytest.raises(NotFoundError):
                await store.start_attempt("ro-later")
            await store.start_rollout(2, rollout_id="ro-later")
            assert (await store.start_attempt("ro-later")).attempt.sequence_id == 2

    async def test_repeats_at_the_same_time(self, store: LightningStore):
        """A call and its repeat that overlap still make one thing."""
        await store.enqueue_rollout(1)
        await store.enqueue_rollout(2)

        async def call():
            with self.keyed("one"):
                claimed = await store.dequeue_rollout("w")
            assert claimed is not None
            return claimed.attempt.attempt_id

        assert len({*await asyncio.gather(*(call() for _ in range(6)))}) == 1


class ConcurrencyConformance:
    async def test_same_id_at_the_same_time(self, store: LightningStore):
        """Enqueueing one caller-made id from many sides makes one rollout."""
        made = await asyncio.gather(
            *(store.enqueue_rollout(i, rollout_id="ro-mine") for i in range(8))
        )
        assert len({rollout.input for rollout in made}) == 1
        assert len(await store.dequeue_many_rollouts(limit=8)) == 1

    async def test_versions_are_never_given_twice(self, store: LightningStore):
        """Updates of one id at the same time get one version each."""
        made = await asyncio.gather(
            *(store.update_resources("v", prompt(str(i))) for i in range(8))
        )
        assert sorted(update.version for update in made) == list(range(1, 9))
        assert len({update.update_time for update in made}) == 8

    async def test_every_rollout_is_claimed_once(self, store: LightningStore):
        """Claims from many sides share the queue without a double."""
        ids = [(await store.enqueue_rollout(i)).rollout_id for i in range(20)]
        claimed = await asyncio.gather(
            *(store.dequeue_many_rollouts(limit=3, worker_id=f"w{i}") for i in range(10))
        )
        assert sorted(c.rollout_id for claims in claimed for c in claims) == sorted(ids)

    async def test_sequence_ids_are_never_given_twice(self, store: LightningStore):
        """Numbers reserved at the same time differ."""
        started = await store.start_rollout(1)
        ids = (started.rollout_id, started.attempt.attempt_id)
        numbers = await asyncio.gather(
            *(store.get_many_span_sequence_ids([ids, ids]) for _ in range(8))
        )
        assert sorted(n for two in numbers for n in two) == list(range(1, 17))

    async def test_one_of_two_settlers_wins(self, store: LightningStore):
        """Contradicting ends at the same time: one counts, the other is kept as late."""
        for _ in range(4):
            started = await store.start_rollout(1)
            ids = (started.rollout_id, started.attempt.attempt_id)
            await asyncio.gather(
                *(store.update_attempt(*ids, status=s) for s in ("succeeded", "failed"))
            )
            rollout = await store.get_rollout_by_id(started.rollout_id)
            attempt = await store.get_latest_attempt(started.rollout_id)
            assert rollout is not None
            assert attempt is not None
            assert rollout.status == attempt.status
            other = {"succeeded": "failed", "failed": "succeeded"}[attempt.status]
            assert attempt.metadata == {"late_status": other}
