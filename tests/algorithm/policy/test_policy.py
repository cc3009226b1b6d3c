"""One set of weights that is served, trained, saved and loaded again."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
from openai import AsyncOpenAI, AuthenticationError

from agentlightning.adapter.calls import find_calls
from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.batch import batch_from_outcomes, loss_spec
from agentlightning.algorithm.policy.outcome import RolloutOutcome
from agentlightning.algorithm.policy.policy import Policy
from agentlightning.errors import EngineError

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": None}


@pytest.fixture
def config(tiny_model):
    return GRPOConfig(
        model=str(tiny_model), model_alias="tiny", lora_rank=None, learning_rate=3e-3, max_tokens=2
    )


@asynccontextmanager
async def opened(config, store, checkpoint=None, *, version=0, forced=GREEDY, session=1, **options):
    policy = Policy(config, store, session=session)
    await policy.load(checkpoint, version=version)
    try:
        policy.set_sampling(forced=forced, max_tokens=config.max_tokens)
        await policy.open_gateway(**options)
        yield policy
    finally:
        await policy.stop()


async def ask(policy, base_url=None, topic="who", **options):
    """Ask with the official client, as an agent would."""
    async with AsyncOpenAI(
        base_url=base_url or policy.endpoint, api_key="-", max_retries=0
    ) as client:
        asked = {"messages": [{"role": "user", "content": topic}], **options}
        reply = await client.chat.completions.create(model=policy.alias, **asked)
    return reply.choices[0].message.content


async def recorded(policy, store, **options):
    """Ask within a rollout and return the call as the store has it."""
    rollout = await store.start_rollout("who")
    ids = (rollout.rollout_id, rollout.attempt.attempt_id)
    await ask(policy, policy.resources()["main_llm"].get_base_url(*ids), **options)
    (call,) = find_calls(await store.query_spans(rollout.rollout_id))
    return call


async def test_a_policy_that_is_not_ready_says_so(config, store):
    """Used out of order it raises; stopping it is always fine."""
    policy = Policy(config, store)
    for use in (lambda: policy.endpoint, policy.resources):
        with pytest.raises(EngineError, match="not loaded or not open"):
            use()
    with pytest.raises(EngineError, match="not loaded"):
        policy.set_sampling(forced={}, max_tokens=1)
    assert policy.version == 0
    await policy.stop()


async def test_a_resumed_part_samples_anew(config, store):
    """The same part of a run repeats its samples; a resumed one does not repeat the first's."""
    drawn = {"temperature": 1.0, "max_tokens": 12}
    said = []
    for session in (1, 1, 2):
        async with opened(config, store, forced=drawn, session=session) as policy:
            said.append(await ask(policy))
    assert said[0] == said[1] != said[2]


async def test_agents_are_sampled_as_the_run_wants(config, store):
    """Forced members replace the agent's own, defaults only what it left out, at any time."""
    async with opened(config, store) as policy:
        first = await sampled(policy, store, temperature=1.5)
        assert len(first) == 2
        assert await sampled(policy, store, temperature=1.5) == first
        assert await sampled(policy, store, max_tokens=1) == first[:1]
        policy.set_sampling(forced={"temperature": 1.0}, max_tokens=3)
        answers = [await sampled(policy, store, temperature=0.0) for _ in range(4)]
        assert len({tuple(answer) for answer in answers}) > 1
        assert max(len(answer) for answer in answers) == 3


async def test_every_name_leads_to_the_model(config, store):
    """Agents with a model name of their own still get this one."""
    async with (
        opened(config, store) as policy,
        AsyncOpenAI(base_url=policy.endpoint, api_key="-", max_retries=0) as client,
    ):
        messages = [{"role": "user", "content": "who"}]
        options = {"messages": messages, "temperature": 0.0, "max_tokens": 4}
        reply = await client.chat.completions.create(model="gpt-x", **options)
        assert reply.choices[0].message.content == await ask(policy, temperature=0, max_tokens=4)
        assert [model.id async for model in client.models.list()] == ["tiny"]


async def test_a_training_step_changes_what_is_sampled(config, store, tmp_path):
    """After one step the version is one more, and a saved policy comes back as it was."""
    async with opened(config, store) as policy:
        good = outcome("good", 1.0, await recorded(policy, store))
        bad = outcome("bad", 0.0, await recorded(policy, store, topic="sum"))
        batch, _ = batch_from_outcomes([good, bad], config, seed="0")
        before = (await recorded(policy, store)).choices[0]
        metrics = await policy.train(batch, loss_spec(config))
        after = (await recorded(policy, store)).choices[0]
        assert policy.version == 1
        assert metrics["training/grad_norm"] > 0
        assert [span.version for span in before.versions] == [0]
        assert [span.version for span in after.versions] == [1]
        assert before.logprobs != after.logprobs
        path = tmp_path / "checkpoint"
        path.mkdir()
        await asyncio.to_thread(policy.save, path)
    async with opened(config, store, path, version=1) as again:
        call = (await recorded(again, store)).choices[0]
        assert again.version == 1
        assert [span.version for span in call.versions] == [1]
        assert call.token_ids == after.token_ids
        np.testing.assert_allclose(call.logprobs, after.logprobs, atol=1e-5)


@pytest.mark.parametrize(("history", "kind"), [("exact", "spliced"), ("template", "first")])
async def test_a_second_turn_goes_on_from_the_first_as_configured(config, store, history, kind):
    """The configured history reaches the engine, and its metrics tell what happened since."""
    config = replace(config, history=history, max_tokens=6)
    async with opened(config, store) as policy:
        rollout = await store.start_rollout("who")
        ids = (rollout.rollout_id, rollout.attempt.attempt_id)
        base_url = policy.resources()["main_llm"].get_base_url(*ids)
        said = await ask(policy, base_url)
        assert policy.history_metrics()["history/prompts_first"] == 1
        turns = [("user", "who"), ("assistant", said), ("user", "and")]
        messages = [{"role": role, "content": content} for role, content in turns]
        await ask(policy, base_url, messages=messages)
        told = policy.history_metrics()
        assert told[f"history/prompts_{kind}"] == 1
        first, second = find_calls(await store.query_spans(rollout.rollout_id))
        exact = [*first.prompt_token_ids, *first.choices[0].token_ids]
        assert told["history/kept_tokens"] == (len(exact) if history == "exact" else 0)
        if history == "exact":
            assert second.prompt_token_ids[: len(exact)] == exact
        assert policy.decode(first.prompt_token_ids).startswith("<|im_start|>user\nwho")
        assert set(policy.history_metrics().values()) == {0}


async def sampled(policy, store, **options):
    """Return the token ids of one answer."""
    return (await recorded(policy, store, **options)).choices[0].token_ids


def outcome(name, reward, call):
    return RolloutOutcome(
        rollout_id=name,
        group_id="g",
        task={},
        reward=reward,
        outcome="ok",
        error=None,
        calls=(call,),
        span_count=1,
    )


async def test_the_gateway_can_ask_for_a_key(config, store):
    """With a secret, clients without it are turned away."""
    async with opened(config, store, secret="s3cret") as policy:
        with pytest.raises(AuthenticationError):
            await ask(policy)
        async with AsyncOpenAI(base_url=policy.endpoint, api_key="s3cret") as client:
            messages = [{"role": "user", "content": "who"}]
            reply = await client.chat.completions.create(
                model="tiny", messages=messages, max_tokens=2
            )
        assert reply.usage.completion_tokens == 2


async def test_a_stopped_policy_is_gone(config, store):
    """After `stop`, also a second one, nobody listens any more."""
    async with opened(config, store) as policy:
        endpoint = policy.endpoint
        await policy.stop()
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{endpoint}/models")
