"""The OpenTelemetry tracer records, attributes and delivers spans."""

import asyncio
import contextvars
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import trace as otel_trace

from agentlightning._internal.ids import attempt_trace_id
from agentlightning.emitter import emit_message, emit_reward, operation, span
from agentlightning.errors import TracerError
from agentlightning.store.http.client import LightningStoreClient
from agentlightning.store.http.server import LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer import get_active_tracer
from agentlightning.tracer.otel import OtelTracer
from tests.support.threads import new_threads


async def stored(store, ids):
    return await store.query_spans(ids["rollout_id"], ids["attempt_id"])


async def test_spans_arrive_whole(store, tracer, begin):
    """What is emitted in a trace context is in the store when the context was left."""
    tracer.init_worker(0, store)
    ids = await begin(store)
    async with tracer.trace_context("name", **ids) as otel:
        assert get_active_tracer() is tracer
        emit_reward(0.5)
        with otel.start_as_current_span("theirs") as theirs:
            theirs.add_event("happened", {"k": 1})
            emit_message("inside")
    assert get_active_tracer() is None
    spans = {s.name: s for s in await stored(store, ids)}
    assert set(spans) == {"agentlightning.annotation", "agentlightning.message", "theirs"}
    theirs, inside = spans["theirs"], spans["agentlightning.message"]
    assert inside.parent_id == theirs.span_id
    assert theirs.parent_id is None
    assert [event.name for event in theirs.events] == ["happened"]
    assert {s.trace_id for s in spans.values()} == {attempt_trace_id(**ids)}
    assert sorted(s.sequence_id for s in spans.values()) == [1, 2, 3]
    for one in spans.values():
        assert one.resource.attributes["agentlightning.rollout_id"] == ids["rollout_id"]
        assert one.resource.attributes["agentlightning.attempt_id"] == ids["attempt_id"]
    assert [s.sequence_id for s in tracer.get_last_trace()] == [1, 2, 3]
    assert tracer.export_counts(**ids) == (3, 0)


async def test_nested_operations_have_parents(store, tracer, begin):
    """Operations inside operations are their children, also across awaits and functions."""

    @operation
    async def inner(x):
        await asyncio.sleep(0)
        emit_message("deep")
        return x + 1

    @operation
    async def outer():
        return await inner(1) + await inner(2)

    tracer.init_worker(0, store)
    ids = await begin(store)
    async with tracer.trace_context(**ids):
        assert await outer() == 5
        with span("block") as block:
            reward = emit_reward(1.0, span_id=block.id)
    by_id = {s.span_id: s for s in await stored(store, ids)}
    names = {s.attributes.get("agentlightning.operation.name"): s for s in by_id.values()}
    messages = [s for s in by_id.values() if s.name == "agentlightning.message"]
    inners = [s for s in by_id.values() if s.parent_id == names["outer"].span_id]
    assert len(inners) == 2
    assert {m.parent_id for m in messages} == {s.span_id for s in inners}
    assert names["outer"].parent_id is None
    assert names["block"].span_id == reward.attributes["agentlightning.link.0.value_match"]


async def test_two_hundred_contexts_at_once(store, tracer, begin):
    """Spans of 200 concurrent contexts, in tasks and threads, each reach their own attempt."""
    tracer.init_worker(0, store)

    async def one(number: int):
        ids = await begin(store)
        async with tracer.trace_context(**ids):
            for step in range(3):
                with span("task", number=number, step=step):
                    await asyncio.sleep(0)
                    emit_message(f"m{number}")
            await asyncio.gather(
                asyncio.create_task(in_task(number)), asyncio.to_thread(in_thread, number)
            )
            assert len(tracer.get_last_trace()) == 8
        return ids, tracer.get_last_trace()

    async def in_task(number):
        await asyncio.sleep(0)
        emit_message(f"m{number}")

    def in_thread(number):
        emit_message(f"m{number}")

    for number, (ids, last) in enumerate(await asyncio.gather(*map(one, range(200)))):
        spans = await stored(store, ids)
        assert len(spans) == 8
        assert {s.trace_id for s in spans} == {attempt_trace_id(**ids)}
        bodies = [s.attributes.get("agentlightning.message.body", f"m{number}") for s in spans]
        assert set(bodies) == {f"m{number}"}
        assert {s.attributes.get("number", number) for s in spans} == {number}
        assert {s.span_id for s in last} == {s.span_id for s in spans}
        assert tracer.export_counts(**ids) == (8, 0)


async def test_contexts_in_threads_with_loops_of_their_own(store, tracer, begin):
    """One tracer serves event loops and plain threads at the same time."""
    tracer.init_worker(0, store)
    everything = [await begin(store) for _ in range(24)]

    def with_loop(ids):
        async def body():
            async with tracer.trace_context(**ids):
                await asyncio.sleep(0)
                emit_message(ids["rollout_id"])

        asyncio.run(body())

    def without_loop(ids):
        with tracer._trace_context_sync(**ids):
            emit_message(ids["rollout_id"])

    await asyncio.gather(
        *(
            asyncio.to_thread((with_loop, without_loop)[n % 2], ids)
            for n, ids in enumerate(everything)
        )
    )
    for ids in everything:
        (only,) = await stored(store, ids)
        assert only.attributes["agentlightning.message.body"] == ids["rollout_id"]


async def test_late_spans_arrive_at_their_attempt(store, tracer, begin):
    """A span that ends after its context was left still belongs to it."""
    tracer.init_worker(0, store)
    first, second = await begin(store), await begin(store)
    async with tracer.trace_context(**first) as otel:
        late = otel.start_span("late")
        in_background = asyncio.create_task(asyncio.sleep(0.01, None))
        in_background.add_done_callback(lambda _: emit_message("background"))
    async with tracer.trace_context(**second):
        late.end()
        await in_background
        await asyncio.sleep(0)
        emit_message("second")
    assert await tracer.flush(**first)
    assert {s.name for s in await stored(store, first)} == {"late", "agentlightning.message"}
    (only,) = await stored(store, second)
    assert only.attributes["agentlightning.message.body"] == "second"
    assert tracer.export_counts(**first) == (2, 0)


async def test_spans_of_child_threads(store, tracer, begin):
    """A thread that carries the context delivers to its attempt; parents are kept."""
    tracer.init_worker(0, store)
    ids = await begin(store)
    async with tracer.trace_context(**ids):
        with span("parent") as parent:
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(emit_message, "child"))
            thread.start()
            thread.join()
    child = next(s for s in await stored(store, ids) if s.name == "agentlightning.message")
    assert child.parent_id == parent.id


async def test_spans_of_thread_pools(store, tracer, begin):
    """Work that an agent gives to a pool belongs to it, also on a pool that others share."""
    tracer.init_worker(0, store)
    everything = [await begin(store) for _ in range(10)]

    async def agent(ids, pool):
        async with tracer.trace_context(**ids):
            loop = asyncio.get_running_loop()
            body = ids["rollout_id"]
            waiting = [loop.run_in_executor(pool, emit_message, body) for _ in range(5)]
            await asyncio.gather(*waiting)

    with ThreadPoolExecutor(3) as pool:
        await asyncio.gather(*(agent(ids, pool) for ids in everything))
    for ids in everything:
        spans = await stored(store, ids)
        assert [s.attributes["agentlightning.message.body"] for s in spans] == (
            [ids["rollout_id"]] * 5
        )


async def test_one_of_several_workers_ends(store, tracer, begin):
    """A worker that stops takes nothing from the others that share its tracer."""
    ids = await begin(store)
    tracer.init_worker(1, store)
    tracer.init_worker(2)
    async with tracer.trace_context(**ids):
        emit_message("a")
        tracer.teardown_worker(1)
        emit_message("b")
    assert tracer.export_counts(**ids) == (2, 0)
    tracer.teardown_worker(2)


async def test_an_explicit_opentelemetry_context_decides(store, tracer, begin):
    """A span started elsewhere with a context of the rollout belongs to the rollout."""
    from opentelemetry import context as otel_context

    tracer.init_worker(0, store)
    ids = await begin(store)
    async with tracer.trace_context(**ids) as otel:
        carried = otel_context.get_current()
        bare = threading.Thread(target=lambda: otel.start_span("x", context=carried).end())
        bare.start()
        bare.join()
    assert [s.name for s in await stored(store, ids)] == ["x"]


async def test_third_party_instrumentation_is_recorded(store, tracer, begin):
    """Spans made through OpenTelemetry's global provider reach the rollout, once."""
    tracer.init_worker(0, store)
    ids = await begin(store)
    async with tracer.trace_context(**ids):
        otel_trace.get_tracer("library").start_span("theirs").end()
    otel_trace.get_tracer("library").start_span("outside").end()
    assert [s.name for s in await stored(store, ids)] == ["theirs"]


async def test_a_context_without_ids_keeps_its_spans(tracer):
    """Without ids nothing is exported, and spans are numbered in the order they ended."""
    async with tracer.trace_context():
        emit_message("one")
        emit_message("two")
    last = tracer.get_last_trace()
    assert [s.sequence_id for s in last] == [1, 2]
    assert {(s.rollout_id, s.attempt_id) for s in last} == {("rollout-dummy", "attempt-dummy")}


async def test_nested_contexts(store, tracer, begin):
    """A context without ids inside another delivers for both; one with ids is its own."""
    tracer.init_worker(0, store)
    outer, other = await begin(store), await begin(store)
    async with tracer.trace_context(**outer):
        with span("around"):
            async with tracer.trace_context():
                emit_message("inner")
            assert [s.name for s in tracer.get_last_trace()] == ["agentlightning.message"]
            async with tracer.trace_context(**other):
                emit_message("other")
    assert {s.name for s in await stored(store, outer)} == {
        "agentlightning.message",
        "agentlightning.operation",
    }
    (alone,) = await stored(store, other)
    assert alone.parent_id is None
    assert alone.trace_id == attempt_trace_id(**other)


async def test_an_exception_in_an_operation(store, tracer, begin):
    """It is recorded as an event with an error status, raised again, and the span is stored."""
    tracer.init_worker(0, store)
    ids = await begin(store)
    with pytest.raises(ZeroDivisionError):
        async with tracer.trace_context(**ids):
            with span("fails"):
                _ = 1 / 0
    (only,) = await stored(store, ids)
    assert only.status.status_code == "ERROR"
    assert only.status.description == "ZeroDivisionError: division by zero"
    assert [event.name for event in only.events] == ["exception"]
    assert get_active_tracer() is None


async def test_cancellation_still_delivers(store, tracer, begin):
    """The spans of a cancelled agent are stored before the cancellation goes on."""
    tracer.init_worker(0, store)
    ids = await begin(store)
    said = asyncio.Event()

    async def agent():
        async with tracer.trace_context(**ids):
            emit_message("before")
            said.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(agent())
    await asyncio.wait_for(said.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await stored(store, ids)) == 1


async def test_large_spans_are_not_cut(store, tracer, begin):
    """More attributes than the SDK's default limit of 128 all arrive."""
    tracer.init_worker(0, store)
    ids = await begin(store)
    async with tracer.trace_context(**ids):
        tracer.create_span("x", {f"k{n}": n for n in range(1000)})
    (only,) = await stored(store, ids)
    assert len(only.attributes) == 1000


async def test_given_times(tracer):
    """Times given in unix seconds are those of the span."""
    async with tracer.trace_context():
        tracer.create_span("point", timestamp=2000.5)
        with tracer.operation_context("stretch", start_time=2000.0, end_time=2002.5) as recording:
            pass
    point, stretch = tracer.get_last_trace()
    assert (point.start_time, point.end_time) == (2000.5, 2000.5)
    assert (stretch.start_time, stretch.end_time) == (2000.0, 2002.5)
    assert recording.get_recorded_span().end_time == 2002.5


async def test_wrong_use(tracer, store):
    """Half of the ids, ids without a store, and a tracer not started are errors that say so."""
    with pytest.raises(ValueError, match="both"):
        async with tracer.trace_context(rollout_id="ro-1"):
            pass
    with pytest.raises(ValueError, match="store"):
        async with tracer.trace_context(rollout_id="ro-1", attempt_id="at-1"):
            pass
    with pytest.raises(TracerError, match="not started"):
        async with OtelTracer().trace_context():
            pass
    with pytest.raises(TracerError, match="not started"):
        OtelTracer().create_span("x")


async def test_store_given_to_the_context(store, tracer, begin):
    """The deprecated `store=` of a context works, with a warning."""
    ids = await begin(store)
    with pytest.warns(DeprecationWarning, match="init_worker"):
        async with tracer.trace_context(store=store, **ids):
            emit_message("x")
    assert len(await stored(store, ids)) == 1


async def test_store_given_to_the_tracer(store, begin):
    """`OtelTracer(store=…)` needs no other store."""
    made = OtelTracer(store=store)
    ids = await begin(store)
    with made.lifespan():
        async with made.trace_context(**ids):
            emit_message("x")
    assert len(await stored(store, ids)) == 1


def test_last_trace_of_another_context(tracer):
    """After `asyncio.run` the trace that it held can still be read."""

    async def body():
        async with tracer.trace_context():
            emit_message("x")

    asyncio.run(body())
    assert len(tracer.get_last_trace()) == 1


def test_deprecated_wrappers(tracer):
    """`trace_run` and `trace_run_async` trace one call, with a warning."""
    with pytest.warns(DeprecationWarning):
        assert tracer.trace_run(lambda x: emit_message("x") or x, 3) == 3
    assert len(tracer.get_last_trace()) == 1

    async def work(x):
        emit_message("y")
        emit_message("z")
        return x

    async def body():
        with pytest.warns(DeprecationWarning):
            assert await tracer.trace_run_async(work, 4) == 4
        assert len(tracer.get_last_trace()) == 2

    asyncio.run(body())
    with pytest.warns(UserWarning, match="LangChain"):
        assert tracer.get_langchain_handler() is None


async def test_pickling_keeps_the_settings(tracer, store):
    """A running tracer pickles for another process, where it is started anew."""
    tracer.init_worker(0, store)
    tracer.flush_timeout = 7.0
    copy = pickle.loads(pickle.dumps(tracer))
    assert copy.flush_timeout == 7.0
    with pytest.raises(TracerError):
        copy.create_span("x")
    with copy.lifespan():
        assert copy.create_span("x").name == "x"


async def test_teardown_in_the_loop_of_the_store(store, begin):
    """The last spans are stored although the teardown blocks the loop that the store is used on."""
    made = OtelTracer()
    made.init_worker(0, store)
    ids = await begin(store)
    async with made.trace_context(**ids) as otel:
        late = otel.start_span("late")
    late.end()
    made.teardown_worker(0)
    assert made.export_counts(**ids) == (1, 0)
    assert len(await stored(store, ids)) == 1


async def test_over_http(tracer, begin):
    """Spans reach a store behind a server, and no connection is left open."""
    server = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    tracer.init_worker(0, client)

    async def agent(number):
        ids = await begin(client)
        async with tracer.trace_context(**ids):
            for _ in range(3):
                emit_message(str(number))
                await asyncio.sleep(0)
        assert [s.sequence_id for s in tracer.get_last_trace()] == [1, 2, 3]
        bodies = [s.attributes["agentlightning.message.body"] for s in await stored(client, ids)]
        assert bodies == [str(number)] * 3

    await asyncio.gather(*map(agent, range(20)))
    tracer.teardown_worker(0)
    await client.close()
    await server.stop()


async def test_nothing_is_kept_of_spans_that_never_end(tracer):
    """Scopes go away with the spans that hold them, ended or not."""
    async with tracer.trace_context() as otel:
        forgotten = otel.start_span("never ends")
        scope = weakref.ref(vars(forgotten)["_agentlightning_scope"])
    async with tracer.trace_context():
        pass
    assert scope() is not None
    del forgotten
    # The tasks and contexts of this test hold no scope but the last.
    async with tracer.trace_context():
        pass
    gc.collect()
    assert scope() is None


def test_the_export_thread_ends():
    """After the tracer's life no thread of it is left."""
    made = OtelTracer()
    store = InMemoryLightningStore()

    async def body():
        rollout = await store.start_rollout(input={})
        attempt_id = rollout.attempt.attempt_id
        with made.lifespan(store):
            async with made.trace_context(rollout_id=rollout.rollout_id, attempt_id=attempt_id):
                emit_message("x")
            assert started("agl-span-export")
        await store.close()

    with new_threads() as started:
        asyncio.run(body())
        assert not started("agl-span-export")
