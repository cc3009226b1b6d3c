"""The runner against the real store and tracer: attribution, limits, stopping, settlement."""

import asyncio
import threading
import time
from typing import Any

import pytest

from agentlightning._internal.clock import monotonic
from agentlightning.errors import AgentTimeoutError, ConfigurationError
from agentlightning.execution.events import ThreadingEvent
from agentlightning.litagent import LitAgent, rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.tracer.active import get_active_tracer
from agentlightning.tracer.otel import OtelTracer
from agentlightning.types import (
    LLM,
    EnqueueRolloutRequest,
    PromptTemplate,
    RolloutConfig,
)

PROMPT = {"prompt": PromptTemplate(template="{x}", engine="f-string")}


class AsyncAgent(LitAgent[Any]):
    async def rollout_async(self, task, resources, rollout):
        tracer = get_active_tracer()
        assert tracer is not None
        for step in range(2):
            with tracer.operation_context(f"step-{task}-{step}"):
                await asyncio.sleep(0.01)
        return float(task)


class SyncAgent(LitAgent[Any]):
    def __init__(self, together: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(together, timeout=15)

    def rollout(self, task, resources, rollout):
        tracer = get_active_tracer()
        assert tracer is not None
        self.barrier.wait()
        tracer.create_span(f"step-{task}-0", {"rollout": rollout.rollout_id})
        return float(task)


class Returning(LitAgent[Any]):
    """Returns (or raises) its task."""

    async def rollout_async(self, task, resources, rollout):
        if isinstance(task, Exception):
            raise task
        return task


class Waiting(LitAgent[Any]):
    def __init__(self) -> None:
        super().__init__()
        self.started = asyncio.Event()
        self.cancelled = 0

    async def rollout_async(self, task, resources, rollout):
        self.started.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def enqueue(store, tasks, **config):
    requests = [
        EnqueueRolloutRequest(input=task, config=RolloutConfig(**config) if config else None)
        for task in tasks
    ]
    return [r.rollout_id for r in await store.enqueue_many_rollouts(requests)]


async def finished(store, ids, timeout=20.0):
    done = await store.wait_for_rollouts(rollout_ids=ids, timeout=timeout)
    assert len(done) == len(ids), [r.status for r in await store.query_rollouts()]
    return [await store.get_rollout_by_id(rollout_id) for rollout_id in ids]


async def settled(store, rollout_id):
    """The latest attempt, once the runner has written its outcome (a watchdog may come first)."""
    async with asyncio.timeout(10):
        while True:
            attempt = await store.get_latest_attempt(rollout_id)
            if attempt.metadata and "outcome" in attempt.metadata:
                return attempt
            await asyncio.sleep(0.01)


def rewards(spans):
    key = "agentlightning.reward.0.value"
    return [span.attributes[key] for span in spans if key in span.attributes]


@pytest.mark.parametrize(("count", "agent"), [(200, AsyncAgent()), (64, SyncAgent(64))])
async def test_concurrent_rollouts_keep_to_themselves(store, working, count, agent):
    """Rollouts that truly run at once each get their own spans, in one trace, and their reward."""
    ids = await enqueue(store, range(count))
    async with working(agent, concurrency=count):
        done = await finished(store, ids)
    for number, item in enumerate(done):
        assert item.status == "succeeded"
        spans = await store.query_spans(item.rollout_id)
        steps = [span.name for span in spans if span.name.startswith("step-")]
        assert steps
        assert all(name.startswith(f"step-{number}-") for name in steps)
        assert rewards(spans) == [number]
        assert len({span.trace_id for span in spans}) == 1
        assert item.attempt.metadata["manifest"]["spans"] == {"sent": len(spans), "dropped": 0}


async def test_concurrency_is_bounded(store, working):
    """No more rollouts run at once than `concurrency` says."""
    running, most = 0, 0

    class Counting(LitAgent[Any]):
        async def rollout_async(self, task, resources, rollout):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

    ids = await enqueue(store, range(30))
    async with working(Counting(), concurrency=4):
        await finished(store, ids)
    assert most == 4


async def test_the_decorated_agent_gets_its_resource(store, working):
    """A decorated function receives the published template of the rollout's snapshot."""

    @rollout
    def agent(task: str, prompt_template: PromptTemplate) -> float:
        return float(prompt_template.format(x=task))

    await store.add_resources(PROMPT)
    ids = await enqueue(store, ["7"])
    async with working(agent):
        await finished(store, ids)
    assert rewards(await store.query_spans(ids[0])) == [7.0]


async def test_missing_resources_fail_the_rollout(store, working):
    """An agent that needs a resource fails clearly where none was published, at once."""

    @rollout
    def agent(task: str, llm: LLM) -> float:
        return 1.0

    ids = await enqueue(store, ["x"])
    async with working(agent):
        (item,) = await finished(store, ids)
    assert item.status == "failed"
    assert item.attempt.metadata["outcome"] == "harness_error"
    assert "No resources have been published" in item.attempt.metadata["error"]["message"]


async def test_agents_without_needs_run_without_resources(store, working):
    """An agent that asks for nothing runs with an empty mapping."""
    ids = await enqueue(store, [1.0])
    async with working(Returning()):
        (item,) = await finished(store, ids)
    assert item.attempt.metadata["outcome"] == "ok"


async def test_unknown_pinned_resources_fail_the_rollout(store, working):
    """A rollout pinned to a snapshot that is not there fails with its name."""
    pinned = await store.enqueue_rollout(1.0, resources_id="rs-none")
    async with working(Returning()):
        (item,) = await finished(store, [pinned.rollout_id])
    assert "rs-none" in item.attempt.metadata["error"]["message"]


async def test_the_mode_chooses_the_variant(store, working):
    """Mode `train` calls the training variant, any other mode the validation variant."""

    class Variants(LitAgent[Any]):
        def training_rollout(self, task, resources, rollout):
            return 1.0

        def validation_rollout(self, task, resources, rollout):
            return 2.0

    found = {}
    async with working(Variants()):
        for mode in ("train", "val", "test", None):
            item = await store.enqueue_rollout("x", mode=mode)
            await finished(store, [item.rollout_id])
            found[mode] = rewards(await store.query_spans(item.rollout_id))[0]
    assert found == {"train": 1.0, "val": 2.0, "test": 2.0, None: 2.0}


async def test_agent_errors_are_recorded_and_the_runner_goes_on(store, working):
    """A raising agent fails its rollout with type, message and traceback, and the next one runs."""
    ids = await enqueue(store, [ValueError("too big"), 1.0])
    async with working(Returning()):
        bad, good = await finished(store, ids)
    assert (bad.status, good.status) == ("failed", "succeeded")
    assert bad.attempt.metadata["outcome"] == "agent_error"
    error = bad.attempt.metadata["error"]
    assert (error["type"], error["message"]) == ("ValueError", "too big")
    assert "rollout_async" in error["traceback"]


@pytest.mark.parametrize("sync", [True, False])
async def test_agents_cannot_end_the_runner(store, working, sync):
    """`sys.exit` in an agent fails its rollout only, in threads and in tasks."""

    class ExitingSync(LitAgent[Any]):
        def rollout(self, task, resources, rollout):
            raise SystemExit(3)

    class ExitingAsync(LitAgent[Any]):
        async def rollout_async(self, task, resources, rollout):
            raise SystemExit(3)

    ids = await enqueue(store, [1, 2])
    async with working(ExitingSync() if sync else ExitingAsync()):
        done = await finished(store, ids)
    assert {item.attempt.metadata["outcome"] for item in done} == {"agent_error"}
    assert done[0].attempt.metadata["error"]["message"] == "The agent raised SystemExit(3)."


async def test_async_agents_time_out(store, working):
    """An async agent past its time is cancelled, and its attempt ends as timed out."""
    agent = Waiting()
    ids = await enqueue(store, ["x"], timeout_seconds=0.1)
    async with working(agent):
        (item,) = await finished(store, ids)
        attempt = await settled(store, ids[0])
    assert (item.status, attempt.status) == ("failed", "timeout")
    assert attempt.metadata["outcome"] == "timeout"
    assert attempt.end_time is not None
    assert agent.cancelled == 1


async def test_sync_agents_time_out(store, working):
    """A sync agent past its time is interrupted between two instructions, and settled."""
    interrupted = threading.Event()

    class Looping(LitAgent[Any]):
        def rollout(self, task, resources, rollout):
            try:
                while True:
                    time.sleep(0.01)
            finally:
                interrupted.set()

    ids = await enqueue(store, ["x"], timeout_seconds=0.1)
    async with working(Looping()):
        await finished(store, ids)
        attempt = await settled(store, ids[0])
    assert attempt.status == "timeout"
    assert await asyncio.to_thread(interrupted.wait, 10)


async def test_retries_follow_the_config(store, working):
    """A rollout is tried again under a new attempt while its retry settings allow."""

    class SecondTime(LitAgent[Any]):
        async def rollout_async(self, task, resources, rollout):
            if rollout.attempt.sequence_id == 1:
                raise RuntimeError("first time")
            return 1.0

    ids = await enqueue(store, ["x"], max_attempts=2, retry_condition=["failed"])
    async with working(SecondTime()):
        (item,) = await finished(store, ids)
    assert item.status == "succeeded"
    attempts = await store.query_attempts(ids[0])
    assert [a.status for a in attempts] == ["failed", "succeeded"]
    assert [a.metadata["outcome"] for a in attempts] == ["agent_error", "ok"]


async def test_a_cancelled_rollout_stops_its_agent(store, working):
    """Cancelling a running rollout stops the agent soon, and the rollout stays cancelled."""
    agent = Waiting()
    ids = await enqueue(store, ["x"])
    async with working(agent):
        await asyncio.wait_for(agent.started.wait(), 10)
        await store.update_rollout(ids[0], status="cancelled")
        async with asyncio.timeout(10):
            while (await store.get_latest_attempt(ids[0])).status != "failed":
                await asyncio.sleep(0.01)
    item = await store.get_rollout_by_id(ids[0])
    assert item.status == "cancelled"
    assert item.attempt.metadata["outcome"] == "cancelled"
    assert agent.cancelled == 1


async def test_a_rollout_taken_away_is_left_alone(store, working):
    """When a rollout is put back into the queue by others, the old attempt ends silently."""
    agent = Waiting()
    ids = await enqueue(store, ["x"])
    async with working(agent, max_rollouts=1):
        await asyncio.wait_for(agent.started.wait(), 10)
        await store.update_rollout(ids[0], status="requeuing")
        async with asyncio.timeout(10):
            while not (await store.query_attempts(ids[0]))[0].metadata:
                await asyncio.sleep(0.01)
    (attempt,) = await store.query_attempts(ids[0])
    assert attempt.metadata["outcome"] == "interrupted"
    assert (await store.get_rollout_by_id(ids[0])).status == "requeuing"


async def test_the_lease_is_renewed(store, working):
    """A silent agent keeps its attempt longer than `unresponsive_seconds`."""

    class Silent(LitAgent[Any]):
        async def rollout_async(self, task, resources, rollout):
            await asyncio.sleep(2.5)
            return 1.0

    ids = await enqueue(store, ["x"], unresponsive_seconds=1.5)
    async with working(Silent()):
        (item,) = await finished(store, ids)
    assert item.status == "succeeded"
    assert item.attempt.last_heartbeat_time > item.attempt.start_time


async def test_stopping_while_waiting_for_work_is_prompt(store):
    """A runner that waits for work ends soon after the event, not after its poll interval."""
    runner = LitAgentRunner[Any](OtelTracer(), poll_interval=60.0, heartbeat_interval=0)
    event = ThreadingEvent()
    with runner.run_context(agent=Returning(), store=store):
        task = asyncio.create_task(runner.iter(event=event))
        await asyncio.sleep(0.1)
        assert not task.done()
        event.set()
        await asyncio.wait_for(task, 10)


async def test_work_is_handed_over_at_once(store, working):
    """A waiting runner starts new work without waiting for its poll interval."""
    async with working(Returning(), poll_interval=60.0):
        await asyncio.sleep(0.1)
        ids = await enqueue(store, [1.0])
        await finished(store, ids, timeout=10)


async def test_the_event_lets_running_work_finish(store, working):
    """After the event nothing is claimed, and what is under way is finished."""

    class Slow(LitAgent[Any]):
        def __init__(self):
            super().__init__()
            self.started = asyncio.Event()

        async def rollout_async(self, task, resources, rollout):
            self.started.set()
            await asyncio.sleep(0.3)
            return 1.0

    agent = Slow()
    ids = await enqueue(store, [1, 2])
    async with working(agent) as event:
        await asyncio.wait_for(agent.started.wait(), 10)
        event.set()
    statuses = [(await store.get_rollout_by_id(i)).status for i in ids]
    assert statuses == ["succeeded", "queuing"]


async def test_cancelling_gives_work_back(store):
    """Cancelling `iter` interrupts what is under way and puts it back into the queue."""
    agent = Waiting()
    ids = await enqueue(store, ["x"])
    runner = LitAgentRunner[Any](OtelTracer(), heartbeat_interval=0)
    with runner.run_context(agent=agent, store=store):
        task = asyncio.create_task(runner.iter())
        await asyncio.wait_for(agent.started.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    item = await store.get_rollout_by_id(ids[0])
    assert item.status == "requeuing"
    assert item.attempt.status == "failed"
    assert item.attempt.metadata["outcome"] == "interrupted"


async def test_max_rollouts_ends_the_loop(store):
    """`iter` returns by itself after `max_rollouts`, also with free slots left."""
    ids = await enqueue(store, [1.0, 2.0, 3.0])
    runner = LitAgentRunner[Any](OtelTracer(), 2, heartbeat_interval=0, concurrency=8)
    with runner.run_context(agent=Returning(), store=store):
        await asyncio.wait_for(runner.iter(), 10)
    statuses = [(await store.get_rollout_by_id(i)).status for i in ids]
    assert statuses == ["succeeded", "succeeded", "queuing"]


async def test_the_worker_is_known_by_its_number(store, working):
    """Claims and heartbeats carry the worker id that `run_context` was given."""
    ids = await enqueue(store, [1.0])
    async with working(Returning(), worker_id=5, heartbeat_interval=10.0):
        (item,) = await finished(store, ids)
        async with asyncio.timeout(10):
            while (await store.get_worker_by_id("Worker-5")).last_heartbeat_time is None:
                await asyncio.sleep(0.01)
    assert item.attempt.worker_id == "Worker-5"
    worker = await store.get_worker_by_id("Worker-5")
    assert worker.heartbeat_stats["mem_total_gb"] > 0


async def test_step_runs_one_task(store):
    """`step` publishes resources, runs past the queue, and returns the finished rollout."""

    @rollout
    async def agent(task: str, prompt_template: PromptTemplate) -> float:
        return 0.5

    runner = LitAgentRunner[Any](OtelTracer())
    with runner.run_context(agent=agent, store=store):
        item = await runner.step("x", resources=PROMPT, mode="train")
    assert (item.status, item.mode) == ("succeeded", "train")
    assert rewards(await store.query_spans(item.rollout_id)) == [0.5]


async def test_step_raises_what_the_agent_raised(store):
    """`step` settles the attempt and then raises the agent's own exception."""
    runner = LitAgentRunner[Any](OtelTracer())
    bound = runner.run_context(agent=Returning(), store=store)
    with bound, pytest.raises(KeyError, match="lost"):
        await runner.step(KeyError("lost"))
    (item,) = await store.query_rollouts()
    assert item.status == "failed"


async def test_step_without_resources_raises(store):
    """`step` raises a RuntimeError where the agent's resource is missing."""

    @rollout
    def agent(task: str, llm: LLM) -> float:
        return 1.0

    runner = LitAgentRunner[Any](OtelTracer())
    bound = runner.run_context(agent=agent, store=store)
    with bound, pytest.raises(RuntimeError, match="No resources"):
        await runner.step("x")


async def test_step_stops_on_the_event(store):
    """Setting the event during `step` stops the agent."""
    agent, event = Waiting(), ThreadingEvent()
    runner = LitAgentRunner[Any](OtelTracer())
    with runner.run_context(agent=agent, store=store):
        task = asyncio.create_task(runner.step("x", event=event))
        await asyncio.wait_for(agent.started.wait(), 10)
        event.set()
        with pytest.raises(RuntimeError, match="interrupted"):
            await asyncio.wait_for(task, 10)
    assert agent.cancelled == 1


def test_unbound_runners_say_so():
    """A runner without agent or store says which call is missing."""
    runner = LitAgentRunner[Any](OtelTracer())
    with pytest.raises(ValueError, match="init"):
        runner.get_agent()
    with pytest.raises(ValueError, match="init_worker"):
        runner.get_store()
    assert runner.get_worker_id() == "Worker-Unknown"
    with pytest.raises(ConfigurationError, match="concurrency"):
        LitAgentRunner[Any](OtelTracer(), concurrency=0)
    with pytest.raises(RuntimeError, match="iter"):
        runner.run()


async def test_short_claims_cost_little(store, working):
    """A thousand small rollouts pass through one runner without piling up anything."""
    start = monotonic()
    ids = await enqueue(store, [1.0] * 1000)
    async with working(Returning(), concurrency=64):
        done = await finished(store, ids, timeout=60)
    assert {item.status for item in done} == {"succeeded"}
    print(f"1000 rollouts in {monotonic() - start:.2f} s")


async def test_claims_have_a_lease(store, working):
    """A runner with a heartbeat claims with a lease, by default of a minute."""
    item = (await enqueue(store, [1.0]))[0]
    async with working(Returning(), heartbeat_interval=10.0):
        (ended,) = await store.wait_for_rollouts(rollout_ids=[item], timeout=15)
    assert ended.attempt.lease_seconds == 60.0


async def test_claims_taken_after_the_start_are_renewed(store, working):
    """The heartbeat renews the leases of claims made after it began, again and again."""

    class Watching(LitAgent[Any]):
        async def rollout_async(self, task, resources, rollout):
            signs = set()
            async with asyncio.timeout(10):
                while len(signs) < 3:
                    attempt = await store.get_latest_attempt(rollout.rollout_id)
                    signs |= {attempt.last_heartbeat_time} - {None}
                    await asyncio.sleep(0.01)
            return 1.0

    async with working(Watching(), heartbeat_interval=0.05, interval_jitter=0.0):
        for _ in range(2):
            (item,) = await finished(store, await enqueue(store, ["x"]))
            assert (item.status, item.attempt.sequence_id) == ("succeeded", 1)


async def test_an_agent_may_say_how_it_failed(store, working):
    """A failure of our own classes keeps its class: a timeout raised by an agent is one."""

    @rollout
    def slow(task: str, llm: LLM) -> float:
        raise AgentTimeoutError("too slow")

    await store.add_resources({"llm": LLM(endpoint="http://h/v1", model="m")})
    rollout_id = (await store.enqueue_rollout("task")).rollout_id
    async with working(slow):
        await store.wait_for_rollouts(rollout_ids=[rollout_id], timeout=20)
    attempt = await store.get_latest_attempt(rollout_id)
    assert (attempt.status, attempt.metadata["outcome"]) == ("timeout", "timeout")
    assert attempt.metadata["error"]["message"] == "too slow"
