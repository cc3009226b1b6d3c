"""Collections in memory."""

import asyncio

import pytest

from agentlightning.store.collections import (
    DequeBasedQueue,
    DictBasedKeyValue,
    InMemoryLightningCollections,
    ListBasedCollection,
)
from agentlightning.types import Attempt
from tests.store.collections.model import CollectionConformance, attempt


@pytest.fixture
def rows():
    return InMemoryLightningCollections()


class TestMemoryCollections(CollectionConformance):
    pass


async def test_0_3_constructors():
    """The classes take the arguments that 0.3.0 gave them."""
    queue = DequeBasedQueue(str, ["a"], id="q", tracker=None)
    assert await queue.has("a")
    values = DictBasedKeyValue({"a": 1.5}, id="k")
    assert await values.inc("a", 1) == 2.5
    table = ListBasedCollection([attempt()], Attempt, ["rollout_id", "attempt_id"], id="t")
    assert await table.size() == 1
    InMemoryLightningCollections(lock_type="asyncio", tracker=None)


async def test_open_block_holds_steps_back(rows):
    """While an atomic block is open, steps of others wait; reads without snapshot do not."""
    order = []

    async def step(inner):
        order.append("step")
        await inner.rollout_queue.enqueue(["b"])

    async with rows.atomic(mode="rw", labels=["rollout_queue"]) as block:
        task = asyncio.create_task(rows.execute(step))
        await asyncio.sleep(0.01)
        await block.rollout_queue.enqueue(["a"])
        order.append("block")
        async with rows.atomic(mode="r") as reading:
            assert await reading.rollout_queue.size() == 1
    await task
    assert order == ["block", "step"]
    assert list(await rows.rollout_queue.peek(2)) == ["a", "b"]


async def test_step_that_waits_is_refused(rows):
    """A step given to `execute` may only await its collections."""

    async def step(_):
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="atomic"):
        await rows.execute(step)


async def test_spans_of_one_rollout_are_evicted(rows):
    """Evicting takes all spans of a rollout and tells how many there were."""
    from agentlightning.types import Span

    await rows.spans.insert(
        [
            Span.from_attributes(attributes={}, rollout_id=owner, attempt_id="a")
            for owner in ("r1", "r1", "r2")
        ]
    )
    assert await rows.evict_spans_for_rollout("r1") == 2
    assert await rows.evict_spans_for_rollout("r1") == 0
    assert await rows.spans.size() == 1
