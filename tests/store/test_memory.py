"""The store in memory: conformance, eviction, thresholds, threads."""

import asyncio
import pickle
import threading

import numpy as np
import pytest
import pytest_asyncio

from agentlightning.errors import ConfigurationError, StoreError
from agentlightning.store.memory import InMemoryLightningStore, estimate_model_size
from agentlightning.types import RolloutConfig
from tests.conformance.store_conformance import StoreConformance
from tests.conformance.store_spans import make_span


class TestMemoryConformance(StoreConformance):
    @pytest_asyncio.fixture
    async def store(self):
        store = InMemoryLightningStore()
        yield store
        await store.close()


def test_capabilities():
    """Thread safety is reported as asked for, the rest is fixed."""
    assert InMemoryLightningStore(thread_safe=True).capabilities == {
        "thread_safe": True,
        "async_safe": True,
        "zero_copy": False,
        "otlp_traces": False,
    }
    assert InMemoryLightningStore().capabilities["thread_safe"] is False


def test_pickling_is_refused_with_advice():
    """A store in memory cannot be pickled, and says what to do instead."""
    with pytest.raises(StoreError, match="LightningStoreServer"):
        pickle.dumps(InMemoryLightningStore())


@pytest.mark.parametrize(
    "arguments",
    [
        {"eviction_memory_threshold": 0.0},
        {"eviction_memory_threshold": 1.5},
        {"eviction_memory_threshold": 0},
        {"eviction_memory_threshold": -5},
        {"eviction_memory_threshold": 100, "safe_memory_threshold": 100},
        {"eviction_memory_threshold": 100, "safe_memory_threshold": -1},
        {"eviction_memory_threshold": 0.1, "safe_memory_threshold": 0.2},
    ],
)
def test_bad_thresholds_are_refused(arguments):
    """Thresholds out of range, or in the wrong order, are refused as ValueError."""
    with pytest.raises(ConfigurationError) as caught:
        InMemoryLightningStore(**arguments)
    assert isinstance(caught.value, ValueError)


async def test_thresholds_are_bytes_or_ratios():
    """An int is bytes, a float a ratio of the memory, and the safe default is 80 percent."""
    counts = await InMemoryLightningStore(eviction_memory_threshold=1000).statistics()
    assert counts["eviction_threshold_bytes"] == 1000
    assert counts["safe_threshold_bytes"] == 800
    counts = await InMemoryLightningStore(
        eviction_memory_threshold=0.5, safe_memory_threshold=0.0
    ).statistics()
    assert counts["eviction_threshold_bytes"] == counts["memory_capacity_bytes"] // 2
    assert counts["safe_threshold_bytes"] == 0


async def test_oldest_spans_are_given_up():
    """Above the threshold the oldest rollouts lose their spans, and say so when asked."""
    store = InMemoryLightningStore(
        eviction_memory_threshold=50, safe_memory_threshold=30, span_size_estimator=lambda _: 10
    )
    owners = [await store.start_rollout(i) for i in range(3)]
    for owner in owners:
        await store.add_many_spans([make_span(owner), make_span(owner)])
    counts = await store.statistics()
    assert counts["total_span_bytes"] == 20
    assert counts["total_spans"] == 2
    assert counts["total_rollouts"] == 3
    for owner in owners[:2]:
        with pytest.raises(RuntimeError, match="eviction_memory_threshold"):
            await store.query_spans(owner.rollout_id)
    assert len(await store.query_spans(owners[2].rollout_id)) == 2


async def test_size_estimate_grows_with_content():
    """The estimate counts nested texts and token ids."""
    store = InMemoryLightningStore()
    owner = await store.start_rollout(1)
    small = estimate_model_size(make_span(owner))
    texts = estimate_model_size(make_span(owner, attributes={"t": "x" * 10_000}))
    tokens = estimate_model_size(make_span(owner, attributes={"t": list(range(1000))}))
    assert texts - small > 9_000
    assert tokens - small > 20_000


async def test_returned_configs_are_copies():
    """Changing the config of a returned rollout changes no rollout of the store."""
    store = InMemoryLightningStore()
    first = await store.enqueue_rollout(1)
    claim = await store.dequeue_rollout()
    assert claim is not None
    for config in (first.config, claim.config):
        config.max_attempts = 7
        config.retry_condition.append("failed")
    others = [await store.enqueue_rollout(2), await store.get_rollout_by_id(first.rollout_id)]
    assert [other.config for other in others] == [RolloutConfig(), RolloutConfig()]


async def test_given_configs_are_copied():
    """Changing a config after it was given to the store changes no rollout."""
    store = InMemoryLightningStore()
    given = RolloutConfig(retry_condition=["failed"])
    first = await store.enqueue_rollout(1, config=given)
    second = await store.enqueue_rollout(2)
    await store.update_rollout(second.rollout_id, config=given)
    given.max_attempts = 7
    given.retry_condition.append("timeout")
    for rollout in await store.query_rollouts():
        assert rollout.config == RolloutConfig(retry_condition=["failed"])
    assert first.config == RolloutConfig(retry_condition=["failed"])


async def test_returned_records_are_copies():
    """Changing a returned rollout or attempt does not change the store."""
    store = InMemoryLightningStore()
    started = await store.start_rollout(1)
    started.status = "failed"
    started.attempt.status = "failed"
    stored = await store.get_rollout_by_id(started.rollout_id)
    assert stored is not None
    assert stored.status == "preparing"
    listed = (await store.query_attempts(started.rollout_id))[0]
    listed.status = "failed"
    assert (await store.get_latest_attempt(started.rollout_id)).status == "preparing"


async def test_published_resources_are_snapshots():
    """Changing a resource after publishing, or after reading, does not change the snapshot."""
    from agentlightning.types import LLM

    store = InMemoryLightningStore()
    llm = LLM(endpoint="e", model="m", sampling_parameters={"t": 1})
    update = await store.add_resources({"llm": llm})
    llm.sampling_parameters["t"] = 2
    read = await store.get_resources_by_id(update.resources_id)
    read.resources["llm"].sampling_parameters["t"] = 3
    again = await store.get_latest_resources()
    assert again.resources["llm"].sampling_parameters == {"t": 1}


def test_threads_with_their_own_loops_share_a_store():
    """Claims and ends cross threads and loops: a worker thread serves what another enqueues."""
    store = InMemoryLightningStore()
    count, workers = 60, 3
    claimed: list[str] = []

    async def work(name):
        while (got := await store.dequeue_rollout(name, wait_seconds=30)) is not None:
            if got.input == "stop":
                return
            claimed.append(got.rollout_id)
            await store.add_span(make_span(got))
            await store.update_attempt(got.rollout_id, "latest", status="succeeded")

    threads = [
        threading.Thread(target=lambda n=n: asyncio.run(work(f"w{n}"))) for n in range(workers)
    ]
    for thread in threads:
        thread.start()

    async def lead():
        ids = [(await store.enqueue_rollout(i)).rollout_id for i in range(count)]
        ended = await store.wait_for_rollouts(rollout_ids=ids, timeout=60)
        for _ in range(workers):
            await store.enqueue_rollout("stop")
        return ids, ended

    ids, ended = asyncio.run(lead())
    for thread in threads:
        thread.join(30)
    assert sorted(claimed) == sorted(ids)
    assert [r.status for r in ended] == ["succeeded"] * count


async def test_ids_of_a_foreign_kind_of_text_become_text():
    """Ids that are texts of numpy, say, are told in events as what they say."""
    store = InMemoryLightningStore()
    queued = await store.enqueue_rollout(1)
    await store.dequeue_rollout(np.str_("w-1"))
    await store.start_attempt(queued.rollout_id, np.str_("w-2"), attempt_id=np.str_("at-2"))
    events = store.subscribe(since=0)
    told = [await anext(events) for _ in range(await store.last_event_seq())]
    await events.aclose()
    started = [event for event in told if event.kind == "attempt_started"]
    assert [event.worker_id for event in started] == ["w-1", "w-2"]
    assert started[1].attempt_id == "at-2"
