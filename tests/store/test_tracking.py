"""What a store with a tracker measures, and under which names."""

import inspect
import logging

import pytest
from prometheus_client import generate_latest

from agentlightning.errors import NotFoundError
from agentlightning.store.collections.memory import InMemoryLightningCollections
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.store.tracking import LATENCY_BUCKETS, public_method
from agentlightning.types import RolloutConfig
from agentlightning.utils.metrics import (
    ConsoleMetricsBackend,
    MetricRegistry,
    MetricsBackend,
    MetricSpec,
    PrometheusMetricsBackend,
    get_prometheus_registry,
)
from tests.conformance.store_spans import make_span


class Notebook(MetricsBackend):
    """A sink as a user would write one: it remembers, and refuses what was not announced."""

    def __init__(self):
        self.known = MetricRegistry()
        self.written: list[tuple[str, float, dict[str, str]]] = []

    def register_counter(self, name, label_names=None, group_level=None):
        spec = MetricSpec(kind="counter", name=name, label_names=tuple(label_names or ()))
        self.known.register(spec)

    def register_histogram(self, name, label_names=None, buckets=None, group_level=None):
        spec = MetricSpec(
            kind="histogram",
            name=name,
            label_names=tuple(label_names or ()),
            buckets=tuple(buckets or ()),
        )
        self.known.register(spec)

    async def inc_counter(self, name, amount=1.0, labels=None):
        self.known.get("counter", name).label_values(labels)
        self.written.append((name, amount, dict(labels)))

    async def observe_histogram(self, name, value, labels=None):
        self.known.get("histogram", name).label_values(labels)
        self.written.append((name, value, dict(labels)))

    def of(self, name: str) -> list[dict[str, str]]:
        return [labels for known, _, labels in self.written if known == name]


@pytest.fixture(params=["memory", "sqlite"])
async def tracked(request, tmp_path):
    """A store and the notebook that it writes to."""
    notebook = Notebook()
    if request.param == "memory":
        store = InMemoryLightningStore(tracker=notebook)
    else:
        store = SQLiteLightningStore(tmp_path / "store.db", tracker=notebook)
    yield store, notebook
    await store.close()


async def test_calls_are_counted_and_timed(tracked):
    """Every public call gives one count and one duration, failed ones with their error."""
    store, notebook = tracked
    await store.enqueue_rollout(1)
    with pytest.raises(NotFoundError):
        await store.update_rollout("ro-none", status="failed")
    seen = [
        (labels["store_pubmeth"], labels["status"]) for labels in notebook.of("agl.store.total")
    ]
    assert seen == [("enqueue_rollout", "ok"), ("update_rollout", "NotFoundError")]
    assert notebook.of("agl.store.latency") == notebook.of("agl.store.total")
    assert public_method.get() == "background"


async def test_each_rollout_ends_once(tracked):
    """A rollout is counted when it ends, with its duration, and not when it changes afterwards."""
    store, notebook = tracked
    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
    claim = await store.start_rollout(1, mode="train", config=config)
    await store.fail_rollout(claim.rollout_id)
    assert notebook.of("agl.rollouts.total") == []
    await store.dequeue_rollout()
    await store.finish_rollout(claim.rollout_id)
    await store.mark_read([claim.rollout_id])
    await store.update_rollout(claim.rollout_id, metadata={"a": 1})
    other = await store.enqueue_rollout(2)
    await store.update_rollout(other.rollout_id, status="cancelled")
    expected = [{"status": "succeeded", "mode": "train"}, {"status": "cancelled", "mode": "none"}]
    assert notebook.of("agl.rollouts.total") == expected
    assert notebook.of("agl.rollouts.duration") == expected
    durations = [value for name, value, _ in notebook.written if name == "agl.rollouts.duration"]
    ended = await store.get_rollout_by_id(claim.rollout_id)
    assert ended is not None
    assert ended.end_time is not None
    assert durations[0] == ended.end_time - ended.start_time


async def test_operations_are_counted_with_their_caller(tracked):
    """Every operation on the storage is counted, under the method that it served."""
    store, notebook = tracked
    claim = await store.start_rollout(1)
    await store.add_span(make_span(claim))
    await store.query_spans(claim.rollout_id)
    seen = {
        (each["store_pubmeth"], each["operation"], each["collection"], each["store_privmeth"])
        for each in notebook.of("agl.collections.total")
    }
    assert {
        ("start_rollout", "apply", "all", "write"),
        ("add_span", "find_rollouts", "rollouts", "write"),
        ("add_span", "apply", "all", "write"),
        ("query_spans", "query", "spans", "read"),
    } <= seen
    assert {each["status"] for each in notebook.of("agl.collections.total")} == {"ok"}
    assert notebook.of("agl.collections.latency") == notebook.of("agl.collections.total")


async def test_collections_work_as_before(tracked):
    """A measured store's `collections` can be used directly, like those of any other."""
    store, _ = tracked
    rollout = await store.enqueue_rollout(1)
    async with store.collections.atomic(mode="r", labels=["rollouts"]) as rows:
        assert await rows.rollouts.size() == 1
    assert await store.collections.rollout_queue.peek(2) == [rollout.rollout_id]


async def test_without_a_tracker_nothing_is_in_between():
    """The collections are those given, and no method is wrapped at run time."""
    store = InMemoryLightningStore()
    assert type(store.collections) is InMemoryLightningCollections
    assert inspect.iscoroutinefunction(store.enqueue_rollout)


def test_buckets_reach_from_a_microsecond_to_five_minutes():
    """As many as 0.3.0 had, growing."""
    assert (LATENCY_BUCKETS[0], LATENCY_BUCKETS[-1], len(LATENCY_BUCKETS)) == (1e-6, 300.0, 44)
    assert list(LATENCY_BUCKETS) == sorted(LATENCY_BUCKETS)


async def test_prometheus_names(tmp_path):
    """Prometheus sees the same metrics, with underscores."""
    store = InMemoryLightningStore(tracker=PrometheusMetricsBackend())
    claim = await store.start_rollout(1, mode="val")
    await store.finish_rollout(claim.rollout_id)
    text = generate_latest(get_prometheus_registry()).decode()
    for name in (
        'agl_store_latency_count{method="finish_rollout",',
        'agl_rollouts_total{mode="val",status="succeeded"}',
        'agl_rollouts_duration_sum{mode="val",status="succeeded"}',
        'agl_collections_total{collection="all",operation="apply",',
    ):
        assert name in text
    await store.close()


async def test_console_shows_them(caplog: pytest.LogCaptureFixture):
    """The console's line has rates and percentiles of the same names."""
    store = InMemoryLightningStore(tracker=ConsoleMetricsBackend(log_interval_seconds=0.0))
    claim = await store.start_rollout(1)
    with caplog.at_level(logging.INFO, logger="agentlightning.utils.metrics.console"):
        await store.finish_rollout(claim.rollout_id)
        await store.statistics()
    line = caplog.messages[-1]
    for name in ("agl.store.total=", "agl.rollouts.duration=", "agl.collections.latency="):
        assert name in line
    await store.close()
