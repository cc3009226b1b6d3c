"""Blocks of plain code record themselves as rollouts."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import OpenAI

import agentlightning as agl
from agentlightning.adapter.calls import find_calls
from agentlightning.emitter import emit_message, emit_reward, span
from agentlightning.errors import ConfigurationError, RewardError
from agentlightning.runner.script import TrainingContext
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.url import open_store
from agentlightning.types import LLM, ProxyLLM
from tests.gateway.running import HELLO, running
from tests.support.model_server import Answer, ModelServer
from tests.support.threads import new_threads

MODES = ["sync", "async"]


@pytest.fixture
def store():
    return InMemoryLightningStore(thread_safe=True)


async def run(mode, context, block):
    """Run `block(context)` inside the context, in one of the two ways."""
    if mode == "async":
        async with context:
            return block(context)

    def work():
        with context:
            return block(context)

    return await asyncio.to_thread(work)


async def spans_of(store, context):
    return await store.query_spans(context.rollout_id, context.attempt_id)


@pytest.mark.parametrize("mode", MODES)
async def test_a_block_is_a_rollout(store, mode):
    """The rollout has task, mode and input; its spans and rewards are stored before it ends."""

    def block(context):
        with span("agent_step", n=1) as step:
            emit_message("hello")
        emit_reward(0.5, span_id=step.id)
        context.output = {"answer": 4}
        return step.id

    context = TrainingContext(task_id="math", store=store, mode="train", input={"q": "2+2"})
    step_id = await run(mode, context, block)
    rollout = await store.get_rollout_by_id(context.rollout_id)
    assert (rollout.status, rollout.mode, rollout.input) == ("succeeded", "train", {"q": "2+2"})
    assert rollout.metadata["group_id"] == rollout.metadata["task_id"] == "math"
    attempt = await store.get_latest_attempt(context.rollout_id)
    assert attempt.metadata["outcome"] == "ok"
    assert attempt.metadata["output"] == {"answer": 4}
    assert attempt.metadata["manifest"]["spans"] == {"sent": 3, "dropped": 0}
    spans = await spans_of(store, context)
    assert agl.find_final_reward(spans) == 0.5
    assert {s.span_id for s in spans if s.name == "agentlightning.operation"} == {step_id}
    assert agl.get_active_tracer() is None


@pytest.mark.parametrize("mode", MODES)
async def test_an_exception_fails_the_attempt_and_is_raised(store, mode):
    """What the block raises is recorded on the attempt and goes on as it is; the reward is kept."""

    def block(context):
        context.reward = -1
        raise LookupError("no such tool")

    context = TrainingContext("t", store)
    with pytest.raises(LookupError, match="no such tool"):
        await run(mode, context, block)
    rollout = await store.get_rollout_by_id(context.rollout_id)
    assert rollout.status == "failed"
    assert rollout.input == {"task_id": "t"}
    attempt = await store.get_latest_attempt(context.rollout_id)
    assert attempt.metadata["outcome"] == "agent_error"
    assert attempt.metadata["error"]["type"] == "LookupError"
    assert "raise LookupError" in attempt.metadata["error"]["traceback"]
    assert agl.find_final_reward(await spans_of(store, context)) == -1


async def test_a_cancelled_block_is_interrupted(store):
    """Cancelling the task settles the attempt as interrupted, and the task is cancelled."""
    context = TrainingContext("t", store)
    entered = asyncio.Event()

    async def work():
        async with context:
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    attempt = await store.get_latest_attempt(context.rollout_id)
    assert (attempt.status, attempt.metadata["outcome"]) == ("failed", "interrupted")


async def test_rewards_set_on_the_context(store):
    """The last reward that was set is the final one; several dimensions have a primary one."""
    context = TrainingContext("t", store)
    assert context.reward is None
    async with context:
        emit_reward(0.1)
        context.reward = {"format": 1, "reward": 0.5}
    assert context.reward == 0.5
    last = (await spans_of(store, context))[-1]
    rewards = [(r.name, r.value) for r in agl.get_rewards_from_span(last)]
    assert rewards == [("reward", 0.5), ("format", 1.0)]
    with pytest.raises(RewardError):
        context.reward = float("nan")
    with pytest.raises(TypeError):
        context.reward = "good"
    context.reward = None
    assert context.reward is None


async def test_nested_blocks(store):
    """A block inside another has a rollout of its own, and the outer one goes on after it."""
    outer, inner = TrainingContext("outer", store), TrainingContext("inner", store)

    def work():
        with outer:
            emit_message("1")
            with inner:
                emit_message("2")
            emit_message("3")

    await asyncio.to_thread(work)
    body = "agentlightning.message.body"
    assert [s.attributes[body] for s in await spans_of(store, outer)] == ["1", "3"]
    assert [s.attributes[body] for s in await spans_of(store, inner)] == ["2"]
    assert all(s.parent_id is None for s in await spans_of(store, inner))


async def test_threads_and_tasks_do_not_mix(store):
    """Blocks in many threads and many tasks at once each get their own spans, all of them."""
    contexts = [TrainingContext(f"t{n}", store) for n in range(12)]
    together = threading.Barrier(6)

    def work(context):
        with context:
            together.wait(timeout=30)
            for _ in range(5):
                with span(context.task_id):
                    emit_message(context.task_id)

    async def work_async(context):
        async with context:
            for _ in range(5):
                async with span(context.task_id):
                    await asyncio.sleep(0)
                    emit_message(context.task_id)

    threads = [threading.Thread(target=work, args=(context,)) for context in contexts[:6]]
    for thread in threads:
        thread.start()
    await asyncio.gather(*map(work_async, contexts[6:]))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    for context in contexts:
        spans = await spans_of(store, context)
        named = {"agentlightning.message.body", "agentlightning.operation.name"}
        said = [v for s in spans for k, v in s.attributes.items() if k in named]
        assert said == [context.task_id] * 10


def test_the_embedded_default_is_a_file(tmp_path, monkeypatch):
    """Without a store, rollouts are kept in a database file that is closed after the block."""
    monkeypatch.delenv("AGL_STORE_URL", raising=False)
    monkeypatch.setenv("AGL_RUNS_DIR", str(tmp_path / "runs"))
    with new_threads() as started:
        with TrainingContext(task_id="a") as first:
            with TrainingContext(task_id="b"):
                pass
            emit_reward(1.0)
        assert not started("")
    assert (tmp_path / "runs" / "script" / "store.db").is_file()

    async def read():
        store = open_store(f"sqlite:///{tmp_path / 'runs' / 'script' / 'store.db'}")
        try:
            return await store.query_rollouts(), await store.query_spans(first.rollout_id)
        finally:
            await store.close()

    rollouts, spans = asyncio.run(read())
    assert sorted(r.metadata["task_id"] for r in rollouts) == ["a", "b"]
    assert {r.status for r in rollouts} == {"succeeded"}
    assert agl.find_final_reward(spans) == 1.0


def test_a_store_by_its_url(tmp_path):
    """A URL names the store; one that would forget everything is refused."""
    url = f"sqlite:///{tmp_path / 'mine.db'}"
    with TrainingContext("t", url) as context:
        assert context.resources == {}
        with pytest.raises(ConfigurationError, match="No model is known"):
            _ = context.llm
    with pytest.raises(ConfigurationError, match="forgets"), TrainingContext("t", "memory://"):
        pass


@pytest.mark.parametrize("mode", MODES)
async def test_a_store_server(store, mode):
    """A block records into a store server by its address, and leaves no connection open."""
    server = LightningStoreServer(store, host="127.0.0.1", port=0)
    await server.start()
    try:
        context = TrainingContext("t", server.endpoint)

        def block(context):
            with span("step") as step:
                emit_message("hello")
            context.reward = 0.5
            return step.id

        with new_threads() as started:
            step_id = await run(mode, context, block)
            assert not started("agl-script")
        spans = await spans_of(store, context)
        assert step_id in {s.span_id for s in spans}
        assert agl.find_final_reward(spans) == 0.5
        assert (await store.get_rollout_by_id(context.rollout_id)).status == "succeeded"
    finally:
        await server.stop()


async def test_wrong_use(store):
    """What exists inside the block only says so outside, and a context serves once."""
    context = TrainingContext("t", store)
    for name in ("rollout_id", "attempt_id", "store"):
        with pytest.raises(ConfigurationError, match="with block begins"):
            getattr(context, name)
    async with context:
        pass
    with pytest.raises(ConfigurationError, match="one block"):
        async with context:
            pass


@pytest.mark.parametrize("mode", MODES)
async def test_calls_through_the_contexts_model(store, mode):
    """Calls of a plain client at `ctx.llm` are captured under the rollout and in its manifest."""
    with ModelServer(Answer(text="4")) as server:
        async with running(server, store) as gateway:
            endpoint = gateway.gateway.endpoint
            await store.add_resources({"main": ProxyLLM(endpoint=endpoint, model="m")})
            context = TrainingContext("t", store)

            def block(context):
                llm = context.llm
                with (
                    OpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client,
                    span("step") as step,
                ):
                    client.chat.completions.create(model=llm.model, messages=HELLO)
                emit_reward(0.0)
                emit_reward(1.0, span_id=step.id)

            await run(mode, context, block)
    spans = await spans_of(store, context)
    (call,) = find_calls(spans)
    assert (call.outcome, call.choices[0].message["content"]) == ("ok", "4")
    (triplet,) = agl.TracerTraceToTriplet().adapt(spans)
    assert triplet.reward == 1.0
    attempt = await store.get_latest_attempt(context.rollout_id)
    assert attempt.metadata["manifest"]["calls"]["finished"] == 1


async def test_a_model_of_ones_own(store):
    """A model that was given is used as it is, unless it is a proxy, which knows attempts."""
    plain = LLM(endpoint="http://h/v1", model="other")
    async with TrainingContext("t", store, llm=plain) as context:
        assert context.llm is plain


async def test_a_block_that_keeps_the_event_loop_busy_is_alive(store, monkeypatch):
    """Signs of life come from another thread, so blocking code in a coroutine does not end it."""
    monkeypatch.setattr("agentlightning.runner.script._SILENCE_SECONDS", 3.0)

    def beat(context):
        attempt = asyncio.run(store.get_latest_attempt(context.rollout_id))
        return attempt.last_heartbeat_time

    async with TrainingContext("t", store) as context:
        deadline = time.monotonic() + 30
        with ThreadPoolExecutor(1) as pool:
            while not pool.submit(beat, context).result():
                assert time.monotonic() < deadline
                time.sleep(0.05)
    rollout = await store.get_rollout_by_id(context.rollout_id)
    assert rollout.status == "succeeded"


KILLED = """
import os, signal
import agentlightning as agl
from agentlightning.runner import script
script._SILENCE_SECONDS = 1.0
with agl.TrainingContext("t", "sqlite:///a.db"):
    agl.emit_message("here")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
async def test_a_script_that_was_killed(tmp_path):
    """The attempt of a dead script ends as unresponsive, and nobody gets its task."""
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    store = open_store(f"sqlite:///{tmp_path / 'a.db'}")
    try:
        (rollout,) = await store.query_rollouts()
        (ended,) = await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=30)
        assert ended.status == "failed"
        assert (await store.get_latest_attempt(rollout.rollout_id)).status == "unresponsive"
        assert await store.dequeue_rollout() is None
    finally:
        await store.close()


PRODUCT_DOCUMENT = """
import agent_lightning as agl
# Initialize Lightning context
with agl.TrainingContext(task_id="math_solver") as ctx:
    # Your existing agent code runs unchanged
    agent = AgentExecutor.from_agent_and_tools(
        agent=chat_agent,
        tools=[calculator, search],
        verbose=True
    )
    # Emit trace spans for training
    with agl.span("agent_step") as step:
        result = agent.run("What is 25 * 17?")
    # Emit reward signal based on outcome
    reward = compute_reward(result, expected_answer)
    agl.emit_reward(reward, span_id=step.id)
"""


def test_the_product_documents_snippet(tmp_path, monkeypatch):
    """The document's own code runs as it is, and leaves a rollout with a linked reward."""
    monkeypatch.setenv("AGL_RUNS_DIR", str(tmp_path))
    monkeypatch.delenv("AGL_STORE_URL", raising=False)

    class AgentExecutor:
        @classmethod
        def from_agent_and_tools(cls, **_):
            return cls()

        def run(self, question):
            emit_message(question)
            return "425"

    names = {
        "AgentExecutor": AgentExecutor,
        "chat_agent": None,
        "calculator": None,
        "search": None,
        "expected_answer": "425",
        "compute_reward": lambda result, expected: float(result == expected),
    }
    exec(PRODUCT_DOCUMENT, names)

    async def read():
        store = open_store(f"sqlite:///{tmp_path / 'script' / 'store.db'}")
        try:
            (rollout,) = await store.query_rollouts()
            return rollout, await store.query_spans(rollout.rollout_id)
        finally:
            await store.close()

    rollout, spans = asyncio.run(read())
    assert rollout.status == "succeeded"
    step = next(s for s in spans if s.name == "agentlightning.operation")
    (message,) = [s for s in spans if agl.get_message_value(s)]
    assert message.parent_id == step.span_id
    (given,) = agl.adapter.rewards.find_reward_spans(spans)
    assert agl.get_reward_value(given) == 1.0
    assert given.attributes["agentlightning.link.0.value_match"] == step.span_id
