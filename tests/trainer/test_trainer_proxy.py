"""A trainer with a model proxy: runners in processes, the gateway in one of its own."""

from typing import Any

from openai import AsyncOpenAI

import agentlightning as agl
from tests.support.model_server import Answer, ModelServer

seen: dict[str, Any] = {}


@agl.rollout
async def agent(task: str, llm: agl.LLM) -> float:
    async with AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key or "k") as client:
        answer = await client.chat.completions.create(
            model=llm.model, messages=[{"role": "user", "content": task}]
        )
    return float(answer.choices[0].message.content == f"re: {task}")


@agl.algo
async def algorithm(
    *, store: agl.LightningStore, llm_proxy: agl.LLMProxy, train_dataset: list[str]
) -> None:
    await llm_proxy.start()
    await store.add_resources({"llm": llm_proxy.as_resource()})
    ids = [(await store.enqueue_rollout(input=task)).rollout_id for task in train_dataset]
    await store.wait_for_rollouts(rollout_ids=ids, timeout=60)
    for rollout_id in ids:
        attempt = await store.get_latest_attempt(rollout_id)
        spans = await store.query_spans(rollout_id)
        seen[rollout_id] = attempt.metadata, agl.find_final_reward(spans)
    seen["gateway"] = type(llm_proxy.gateway).__name__
    await llm_proxy.stop()


def test_agents_in_processes_call_a_proxy_in_another() -> None:
    """The proxy's default mode works with the trainer's default strategy: every call is recorded,
    and every attempt sealed with its count.
    """
    seen.clear()
    with ModelServer(lambda body: Answer(text=f"re: {body['messages'][0]['content']}")) as server:
        params = {"model": "hosted_vllm/m", "api_base": server.endpoint}
        proxy = agl.LLMProxy(model_list=[{"model_name": "m", "litellm_params": params}])
        agl.Trainer(algorithm=algorithm, n_runners=2, llm_proxy=proxy).fit(agent, ["a", "b", "c"])
    assert seen.pop("gateway") == "GatewayProcesses"
    assert len(seen) == 3
    for metadata, reward in seen.values():
        assert (metadata["outcome"], reward) == ("ok", 1.0)
        assert metadata["manifest"]["calls"]["finished"] == 1
