"""Two hundred rollouts at once in one process, from runner to gateway to model server and back."""

import asyncio
import contextlib
import json
from collections import Counter

from openai import AsyncOpenAI, OpenAI

import agentlightning as agl
from agentlightning.adapter.calls import find_calls
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.runner.agent import LitAgentRunner
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.otel import OtelTracer
from tests.gateway.running import ALL
from tests.support.model_server import Answer, ModelServer

ROLLOUTS = 200
CALLS = 3


def reply(request: dict) -> Answer:
    """Repeat the question, after a moment, so that many calls are open at once."""
    return Answer(text=f"re: {request['messages'][0]['content']}", delay_seconds=0.02)


def question(task: dict, turn: int) -> list:
    return [{"role": "user", "content": f"{task['name']} turn {turn}"}]


@agl.rollout
async def async_agent(task: dict, llm: agl.LLM) -> float:
    async with AsyncOpenAI(base_url=llm.endpoint, api_key="-") as client:
        for turn in range(CALLS):
            messages = question(task, turn)
            done = await client.chat.completions.create(model=llm.model, messages=messages)
            assert done.choices[0].message.content == f"re: {messages[0]['content']}"
            agl.emit_message(f"{task['name']} turn {turn}")
    return float(task["name"].split("-")[1])


@agl.rollout
def sync_agent(task: dict, llm: agl.LLM) -> float:
    client = SYNC_CLIENT.with_options(base_url=llm.endpoint)
    for turn in range(CALLS):
        client.chat.completions.create(model=llm.model, messages=question(task, turn))
        agl.emit_message(f"{task['name']} turn {turn}")
    return float(task["name"].split("-")[1])


SYNC_CLIENT = OpenAI(base_url="http://unused", api_key="-")


async def run_all(agent, store, gateway, prefix: str) -> list:
    """Run two hundred rollouts through one runner, and return them when they have ended."""
    llm = agl.ProxyLLM(endpoint=gateway.endpoint, model="m")
    await store.add_resources({"llm": llm})
    rollouts = [
        await store.enqueue_rollout({"name": f"{prefix}-{index}"}) for index in range(ROLLOUTS)
    ]
    runner = LitAgentRunner(OtelTracer(), max_rollouts=ROLLOUTS, concurrency=ROLLOUTS)
    runner.init(agent)
    runner.init_worker(0, store)
    try:
        await runner.iter()
    finally:
        runner.teardown_worker(0)
        runner.teardown()
    ids = [rollout.rollout_id for rollout in rollouts]
    return await store.wait_for_rollouts(rollout_ids=ids, timeout=60)


async def check_rollout(store, rollout) -> Counter:
    """Check that everything in a rollout's trace is its own; return what the model was asked."""
    name = rollout.input["name"]
    assert rollout.status == "succeeded"
    spans = await store.query_spans(rollout.rollout_id)
    calls = find_calls(spans)
    asked = Counter(json.dumps(call.request["messages"]) for call in calls)
    assert asked == Counter(json.dumps(question(rollout.input, turn)) for turn in range(CALLS))
    said = sorted(text for text in map(agl.get_message_value, spans) if text)
    assert said == [f"{name} turn {turn}" for turn in range(CALLS)]
    assert agl.find_final_reward(spans) == float(name.split("-")[1])
    attempt = await store.get_latest_attempt(rollout.rollout_id)
    manifest = attempt.metadata["manifest"]
    assert manifest["calls"] == {"started": CALLS, "finished": CALLS, "failed": 0, "cancelled": 0}
    assert manifest["spans"] == {"sent": CALLS + 1, "dropped": 0}
    return asked


async def test_two_hundred_rollouts_at_once_are_never_mixed():
    """Async and threaded agents: each rollout holds its own calls, spans and reward, and the
    manifests add up to the model server's own log.
    """
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ModelServer(reply))
        store = InMemoryLightningStore(thread_safe=True)
        route = ModelRoute(upstream=HttpUpstream(server.endpoint, capabilities=ALL), model="m")
        gateway = Gateway(store, models={"m": route})
        await gateway.start()
        try:
            ended = await run_all(async_agent, store, gateway, "async")
            ended += await run_all(sync_agent, store, gateway, "sync")
        finally:
            await gateway.stop()
        assert len(ended) == 2 * ROLLOUTS
        asked: Counter = Counter()
        for rollout in ended:
            asked += await check_rollout(store, rollout)
        log = Counter(json.dumps(call.request["messages"]) for call in server.calls)
        assert asked == log
        await store.close()
        await asyncio.sleep(0)
