"""Tests of the client's calls about work: the same answers and errors as a local store."""

import asyncio
import math

import pytest

from agentlightning.errors import (
    InvalidRequestError,
    InvalidTransitionError,
    NotFoundError,
)
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.types import (
    AttemptedRollout,
    EnqueueRolloutRequest,
    PaginatedResult,
    RolloutConfig,
)


async def test_answers_are_those_of_the_store(
    client: LightningStoreClient, server: LightningStoreServer
):
    """What the client returns equals what the store returns for the same call."""
    started = await client.start_rollout(
        {"q": 1}, mode="val", config=RolloutConfig(max_attempts=2), metadata={"a": 1}
    )
    assert started == await server.get_rollout_by_id(started.rollout_id)
    assert isinstance(started, AttemptedRollout)
    assert await client.get_rollout_by_id(started.rollout_id) == started
    assert await client.get_latest_attempt(started.rollout_id) == started.attempt
    listed = await client.query_rollouts(rollout_id_in=[started.rollout_id], mode_in=["val"])
    assert list(listed) == [started]
    assert isinstance(listed, PaginatedResult)
    assert (await client.statistics())["total_rollouts"] >= 1


async def test_none_for_what_is_not_there(client: LightningStoreClient):
    """Looking up unknown ids gives None and no error."""
    assert await client.get_rollout_by_id("ro-none") is None
    assert await client.get_latest_attempt("ro-none") is None
    assert await client.get_resources_by_id("rs-none") is None
    assert await client.get_worker_by_id("w-none") is None


async def test_errors_are_those_of_the_store(client: LightningStoreClient, claim: AttemptedRollout):
    """The client raises the classes that the store raises."""
    with pytest.raises(NotFoundError, match="ro-none"):
        await client.update_rollout("ro-none", mode="val")
    with pytest.raises(ValueError, match="ro-none"):
        await client.update_attempt("ro-none", "latest", status="failed")
    await client.update_rollout(claim.rollout_id, status="cancelled")
    with pytest.raises(InvalidTransitionError):
        await client.start_attempt(claim.rollout_id)
    with pytest.raises(InvalidRequestError, match="sort_by"):
        await client.query_rollouts(sort_by="nonsense")


async def test_enqueueing_is_ordered_and_keeps_ids(client: LightningStoreClient):
    """Several requests come back in order, under the ids of the caller where given."""
    requests = [
        EnqueueRolloutRequest(input=1, rollout_id="ro-mine"),
        EnqueueRolloutRequest(input=2, mode="train"),
    ]
    first, second = await client.enqueue_many_rollouts(requests)
    assert (first.rollout_id, first.input, second.input) == ("ro-mine", 1, 2)
    assert requests[1].rollout_id is None
    again = await client.enqueue_rollout(99, rollout_id="ro-mine")
    assert again.input == 1
    assert await client.enqueue_many_rollouts([]) == []
    claimed = await client.dequeue_many_rollouts(limit=5, worker_id="w-e")
    assert [c.input for c in claimed if c.rollout_id in {"ro-mine", second.rollout_id}] == [1, 2]
    assert await client.dequeue_many_rollouts(limit=0) == []
    assert await client.dequeue_rollout() is None


async def test_a_waiting_claim_is_woken(client: LightningStoreClient):
    """A claim that waits returns as soon as there is work, and None after its time."""
    assert await client.dequeue_rollout(wait_seconds=0.05) is None
    claiming = asyncio.create_task(client.dequeue_rollout("w-wait", wait_seconds=30))
    await asyncio.sleep(0.1)
    assert not claiming.done()
    rollout = await client.enqueue_rollout("wake")
    claimed = await asyncio.wait_for(claiming, 5)
    assert claimed is not None
    assert claimed.rollout_id == rollout.rollout_id


async def test_waiting_for_the_end(client: LightningStoreClient, claim: AttemptedRollout):
    """Waiting ends when all have ended, when time is over, and at once for unknown ids."""
    ids = [claim.rollout_id]
    assert await client.wait_for_rollouts(rollout_ids=ids, timeout=0.05) == []
    assert await client.wait_for_rollouts(rollout_ids=["ro-none"], timeout=30) == []
    waiting = asyncio.create_task(client.wait_for_rollouts(rollout_ids=[*ids, "ro-none"]))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await client.update_attempt(claim.rollout_id, "latest", status="failed")
    (ended,) = await asyncio.wait_for(waiting, 5)
    assert (ended.rollout_id, ended.status) == (claim.rollout_id, "failed")


async def test_waits_longer_than_one_request(
    client: LightningStoreClient, claim: AttemptedRollout, monkeypatch: pytest.MonkeyPatch
):
    """A wait that the server cuts short goes on in further requests."""
    monkeypatch.setattr("agentlightning.store.http.client_work.WAIT_SLICE_SECONDS", 0.05)
    waiting = asyncio.create_task(client.wait_for_rollouts(rollout_ids=[claim.rollout_id]))
    claiming = asyncio.create_task(client.dequeue_rollout("w-slices", wait_seconds=30))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    assert not claiming.done()
    await client.update_attempt(claim.rollout_id, "latest", status="succeeded")
    assert len(await asyncio.wait_for(waiting, 5)) == 1
    await client.enqueue_rollout(1)
    assert await asyncio.wait_for(claiming, 5) is not None


async def test_settling(client: LightningStoreClient, claim: AttemptedRollout):
    """A rollout is finished with a reward and an output, or failed with an error."""
    done = await client.finish_rollout(claim.rollout_id, reward={"a": 1.0}, output={"x": [1]})
    assert done.status == "succeeded"
    assert len(await client.query_spans(claim.rollout_id)) == 1
    other = await client.start_rollout(1)
    with pytest.raises(InvalidRequestError, match="no finite number"):
        await client.finish_rollout(other.rollout_id, reward=math.nan)
    failed = await client.fail_rollout(other.rollout_id, other.attempt.attempt_id, error="broke")
    assert failed.status == "failed"
