"""What tracing costs: one emitted span, end to end, and how many reach the store per second.

Run `python -m benchmarks.tracing [--spans 20000] [--contexts 32]`. Nothing else should run beside
it. "Agent" is the CPU time of the emitting thread per span; "end to end" is the time from the
first emit until the last span is in the memory store, per span.
"""

import argparse
import asyncio
import gc
import time

from agentlightning.emitter import emit_message
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.otel import OtelTracer


async def one_context(tracer, store, spans):
    """Emit all spans in one trace context; return seconds of agent, of all threads, of wall."""
    rollout = await store.start_rollout(input={})
    ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
    began, cpu_began, all_began = time.perf_counter(), time.thread_time(), time.process_time()
    async with tracer.trace_context(**ids):
        for number in range(spans):
            emit_message("hello", {"number": number})
        agent = time.thread_time() - cpu_began
    total, everything = time.perf_counter() - began, time.process_time() - all_began
    assert tracer.export_counts(**ids) == (spans, 0)
    return agent, everything, total


async def many_contexts(tracer, store, spans, contexts):
    """Spread the spans over contexts that run at once; return end-to-end seconds."""

    async def agent(count):
        rollout = await store.start_rollout(input={})
        attempt_id = rollout.attempt.attempt_id
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=attempt_id):
            for number in range(count):
                emit_message("hello", {"number": number})
                if number % 20 == 0:
                    await asyncio.sleep(0)

    began = time.perf_counter()
    await asyncio.gather(*(agent(spans // contexts) for _ in range(contexts)))
    return time.perf_counter() - began


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=20_000)
    parser.add_argument("--contexts", type=int, default=32)
    given = parser.parse_args()
    for thread_safe in (False, True):
        store, tracer = InMemoryLightningStore(thread_safe=thread_safe), OtelTracer()
        with tracer.lifespan(store):
            await one_context(tracer, store, 500)
            gc.collect()
            agent, everything, total = await one_context(tracer, store, given.spans)
            at_once = await many_contexts(tracer, store, given.spans, given.contexts)
        await store.close()
        per_span = 1e6 / given.spans
        print(
            f"memory store, thread_safe={thread_safe}: agent {agent * per_span:.0f} us/span, "
            f"CPU of all threads {everything * per_span:.0f} us/span, "
            f"end to end {total * per_span:.0f} us/span = {given.spans / total:,.0f} spans/s, "
            f"{given.contexts} contexts {given.spans / at_once:,.0f} spans/s"
        )


if __name__ == "__main__":
    asyncio.run(main())
