"""What an attempt's record says when its model calls went wrong, with real clients."""

import asyncio
import os
import signal
from typing import Any

import pytest
from openai import AsyncOpenAI

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.outcome import fetch_outcome
from agentlightning.gateway.budget import CallBudget
from agentlightning.litagent import LitAgent
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.types.call import CallRecord
from tests.runner.test_agent import enqueue, finished
from tests.support.model_server import Answer, ModelServer

OVERFLOW = (
    b'{"object": "error", "message": "The input (5000 tokens) is longer than the model\'s context '
    b'length (4096 tokens).", "type": "BadRequestError", "code": 400}'
)


class Turns(LitAgent[Any]):
    """Makes so many calls; before the last, something may happen."""

    def __init__(self, turns: int, *, stream: bool = False, forgiving: bool = False) -> None:
        super().__init__()
        self.turns = turns
        self.stream = stream
        self.forgiving = forgiving
        self.before_last: Any = lambda: None

    async def rollout_async(self, task, resources, rollout):
        url = resources["llm"].get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        async with AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            for turn in range(self.turns):
                if turn == self.turns - 1:
                    self.before_last()
                try:
                    await self.call(client, turn)
                except Exception:
                    if not self.forgiving:
                        raise
        return 0.5

    async def call(self, client, turn):
        messages: Any = [{"role": "user", "content": str(turn)}]
        answer = await client.chat.completions.create(
            model="m", messages=messages, stream=self.stream
        )
        if self.stream:
            async for _ in answer:
                pass


@pytest.fixture
def ended(store, working):
    """Run one rollout; return its attempt, its records and what an algorithm makes of it."""

    async def ended(proxy, agent):
        await store.add_resources({"llm": proxy.as_resource()})
        (rollout_id,) = await enqueue(store, ["task"])
        async with working(agent):
            (rollout,) = await finished(store, [rollout_id])
        spans = await store.query_spans(rollout_id)
        records = [record for span in spans if (record := CallRecord.from_span(span))]
        config = GRPOConfig(model="m", failure_reward=-1.0)
        seen = await fetch_outcome(store, rollout, group_id="g", config=config)
        return rollout.attempt, records, seen

    return ended


def proxy_for(server, store, **options):
    params = {"model": "hosted_vllm/m", "api_base": server.endpoint}
    return LLMProxy(
        model_list=[{"model_name": "m", "litellm_params": params}],
        store=store,
        **{"launch_mode": "thread", **options},
    )


async def test_an_overflow_at_the_last_turn_is_scored_and_typed(store, ended):
    """The calls before it are kept, and the attempt counts as the agent's own failure."""
    with ModelServer() as server:
        agent = Turns(3)
        chat = "/v1/chat/completions"
        agent.before_last = lambda: server.raw.update({chat: (400, "application/json", OVERFLOW)})
        proxy = proxy_for(server, store)
        await proxy.start()
        attempt, records, seen = await ended(proxy, agent)
        await proxy.stop()
    assert (attempt.status, attempt.metadata["outcome"]) == ("failed", "overflow")
    assert attempt.metadata["manifest"]["errors"] == {"context_length_exceeded": 1}
    assert [record.error_code for record in records] == [None, None, "context_length_exceeded"]
    assert (seen.outcome, seen.reward, seen.has_tokens) == ("overflow", -1.0, True)


async def test_an_agent_that_goes_on_after_an_overflow_keeps_its_reward(store, ended):
    """The event is in the manifest, and the outcome is the agent's to decide."""
    with ModelServer() as server:
        server.raw["/v1/chat/completions"] = (400, "application/json", OVERFLOW)
        proxy = proxy_for(server, store)
        await proxy.start()
        attempt, _, seen = await ended(proxy, Turns(1, forgiving=True))
        await proxy.stop()
    assert (attempt.metadata["outcome"], seen.reward) == ("ok", 0.5)
    assert attempt.metadata["manifest"]["errors"] == {"context_length_exceeded": 1}


async def test_a_used_up_budget_ends_the_rollout_under_its_name(store, ended):
    """A rollout that wants more calls than it may make fails for that, and is scored."""
    with ModelServer() as server:
        proxy = proxy_for(server, store, budget=CallBudget(calls=2))
        await proxy.start()
        attempt, records, seen = await ended(proxy, Turns(5))
        await proxy.stop()
    assert attempt.metadata["outcome"] == "budget_exceeded"
    assert [record.outcome for record in records] == ["ok", "ok", "error"]
    assert seen.reward == -1.0


async def test_a_broken_server_is_not_the_agents_experience(store, ended):
    """An agent whose client raised for the server's sake is left out of the learning."""
    with ModelServer(Answer(status=500)) as server:
        proxy = proxy_for(server, store)
        await proxy.start()
        attempt, _, seen = await ended(proxy, Turns(1))
        await proxy.stop()
    assert attempt.metadata["outcome"] == "engine_error"
    assert seen.reward is None


async def test_a_gateway_killed_in_a_stream_is_named_too(store, ended):
    """Nothing of the broken call is recorded as ok, and the attempt says whose fault it was."""
    server_of_store = LightningStoreServer(store, port=0)
    await server_of_store.start()
    with ModelServer(Answer(text="some words that take their time", pace_seconds=0.05)) as server:
        proxy = proxy_for(server, server_of_store, launch_mode="mp")
        await proxy.start()
        gateway: Any = proxy.gateway

        def kill_soon():
            asyncio.get_running_loop().call_later(0.3, os.kill, gateway.pids[0], signal.SIGKILL)

        agent = Turns(1, stream=True)
        agent.before_last = kill_soon
        attempt, records, seen = await ended(proxy, agent)
        await proxy.stop()
    assert attempt.metadata["outcome"] == "engine_error"
    assert attempt.metadata["manifest"]["calls"] is None
    assert records == []
    assert seen.reward is None
    await server_of_store.stop()
