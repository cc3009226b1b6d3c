"""Spans reach a store that is slow, fails or refuses, or are counted as dropped."""

import asyncio
import logging

import pytest

from agentlightning.emitter import emit_message
from agentlightning.errors import InvalidRequestError, StoreUnavailableError
from agentlightning.tracer.exporter import ExportOptions
from agentlightning.tracer.otel import OtelTracer


@pytest.fixture
def started():
    """The function that starts a tracer with export options; all are stopped at the end."""
    running = []

    def make(store, *, flush_timeout=30.0, **options):
        tracer = OtelTracer(
            store=store, flush_timeout=flush_timeout, export=ExportOptions(**options)
        )
        tracer.init_worker(0)
        running.append(tracer)
        return tracer

    yield make
    for tracer in running:
        tracer.teardown_worker(0)


async def count(store, ids):
    return len(await store.query_spans(ids["rollout_id"]))


async def test_failures_are_retried(troubled, started, begin):
    """A store that fails three times gets the spans in the end, each once."""
    tracer = started(troubled)
    ids = await begin(troubled)
    troubled.failures = [StoreUnavailableError("no"), OSError("no"), RuntimeError("no")]
    async with tracer.trace_context(**ids):
        for number in range(5):
            emit_message(str(number))
    assert await count(troubled, ids) == 5
    assert tracer.export_counts(**ids) == (5, 0)
    assert len(troubled.calls) >= 4


async def test_a_store_that_never_recovers(troubled, started, begin, caplog):
    """After the time for retries, spans are dropped, counted and reported once."""
    tracer = started(troubled, retry_seconds=0.1)
    ids = await begin(troubled)
    troubled.failures = [StoreUnavailableError("no") for _ in range(100)]
    with caplog.at_level(logging.WARNING):
        async with tracer.trace_context(**ids):
            emit_message("a")
            emit_message("b")
    assert tracer.export_counts(**ids) == (0, 2)
    (record,) = [r for r in caplog.records if r.message == "spans dropped"]
    assert record.__dict__["rollout_id"] == ids["rollout_id"]
    assert "StoreUnavailableError" in record.__dict__["error"]


async def test_a_slow_store_does_not_block_the_agent(troubled, started, begin):
    """While a call to the store hangs, the agent emits as much as it likes."""
    tracer = started(troubled, linger_seconds=0.0)
    ids = await begin(troubled)
    troubled.gate = asyncio.Event()
    async with tracer.trace_context(**ids):
        emit_message("first")
        while not troubled.calls:
            await asyncio.sleep(0)
        # The call of the first span is under way, and nothing of what follows waits for it.
        for number in range(1000):
            emit_message(str(number))
        assert troubled.calls == [1]
        await asyncio.sleep(0)
        assert await count(troubled, ids) == 0
        troubled.gate.set()
    assert await count(troubled, ids) == 1001
    assert tracer.export_counts(**ids) == (1001, 0)


async def test_a_hanging_store_holds_the_context_no_longer_than_allowed(troubled, started, begin):
    """Past the flush timeout the context is left, and what is pending counts as not stored."""
    tracer = started(troubled, flush_timeout=0.05)
    ids = await begin(troubled)
    troubled.gate = asyncio.Event()
    async with tracer.trace_context(**ids):
        emit_message("x")
    assert tracer.export_counts(**ids) == (0, 1)
    troubled.gate.set()
    assert await tracer.flush(**ids)
    assert tracer.export_counts(**ids) == (1, 0)


async def test_calls_that_hang_are_given_up_and_repeated(troubled, started, begin):
    """A single call has a time limit of its own, after which it is made again."""
    tracer = started(troubled, call_timeout_seconds=0.05)
    ids = await begin(troubled)
    troubled.delay = 60.0
    async with tracer.trace_context(**ids):
        emit_message("x")
        while not troubled.calls:
            await asyncio.sleep(0.01)
        troubled.delay = 0.0
    assert await count(troubled, ids) == 1
    assert len(troubled.calls) >= 2


async def test_the_queue_is_bounded(troubled, started, begin):
    """What does not fit into the queue is dropped and counted; the rest arrives."""
    tracer = started(troubled, max_queued_spans=10, linger_seconds=10.0)
    ids = await begin(troubled)
    async with tracer.trace_context(**ids):
        for number in range(25):
            emit_message(str(number))
        assert len(tracer.get_last_trace()) == 25
    assert tracer.export_counts(**ids) == (10, 15)
    assert await count(troubled, ids) == 10


async def test_an_unknown_attempt_takes_nobody_with_it(troubled, started, begin):
    """Spans of an attempt that the store does not know are dropped; those beside them arrive."""
    tracer = started(troubled)
    good = await begin(troubled)
    bad = {"rollout_id": "ro-unknown", "attempt_id": "at-unknown"}

    async def agent(ids):
        async with tracer.trace_context(**ids):
            for number in range(4):
                emit_message(str(number))

    await asyncio.gather(agent(good), agent(bad))
    assert tracer.export_counts(**good) == (4, 0)
    assert tracer.export_counts(**bad) == (0, 4)


async def test_one_refused_span_takes_nobody_with_it(troubled, started, begin):
    """A span that the store refuses is found by halving; the others arrive."""
    tracer = started(troubled)
    ids = await begin(troubled)
    accept = troubled.add_many_spans

    async def picky(spans):
        if any(span.attributes.get("agentlightning.message.body") == "7" for span in spans):
            raise InvalidRequestError("seven")
        return await accept(spans)

    troubled.add_many_spans = picky
    async with tracer.trace_context(**ids):
        for number in range(20):
            emit_message(str(number))
    assert tracer.export_counts(**ids) == (19, 1)
    spans = await troubled.query_spans(ids["rollout_id"])
    assert "7" not in {s.attributes["agentlightning.message.body"] for s in spans}


async def test_spans_go_in_batches(troubled, started, begin):
    """Many spans make few calls, none larger than a batch."""
    tracer = started(troubled, batch_size=100, linger_seconds=10.0)
    ids = await begin(troubled)
    async with tracer.trace_context(**ids):
        for number in range(250):
            emit_message(str(number))
    assert sum(troubled.calls) == 250
    assert len(troubled.calls) < 20
    assert max(troubled.calls) <= 100


async def test_a_slow_store_delays_no_other(troubled, store, started, begin):
    """Two stores of one tracer have lanes of their own."""
    tracer = started(troubled)
    slow = await begin(troubled)
    quick = await begin(store)
    troubled.gate = asyncio.Event()
    async with tracer.trace_context(**slow):
        emit_message("slow")
        with pytest.warns(DeprecationWarning):
            async with tracer.trace_context(store=store, **quick):
                emit_message("quick")
        assert await count(store, quick) == 1
        assert await count(troubled, slow) == 0
        troubled.gate.set()
    assert await count(troubled, slow) == 1


async def test_a_store_that_is_not_thread_safe_is_called_on_its_own_loop(troubled, started, begin):
    """Export calls such a store on the event loop of the trace context, and others anywhere."""
    tracer = started(troubled)
    ids = await begin(troubled)
    loops = []
    accept = troubled.add_many_spans

    async def watching(spans):
        loops.append(asyncio.get_running_loop())
        return await accept(spans)

    troubled.add_many_spans = watching
    assert not troubled.capabilities.get("thread_safe")
    async with tracer.trace_context(**ids):
        emit_message("x")
    assert loops == [asyncio.get_running_loop()]
