"""A policy that is sampled by a model server and trained here."""

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.batch import batch_from_outcomes, loss_spec
from agentlightning.algorithm.policy.policy import Policy
from agentlightning.engine.loading import load_model
from agentlightning.errors import ConfigurationError
from tests.algorithm.policy.test_policy import outcome, recorded
from tests.support.vllm_like_server import VLLMLikeServer, logprob_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
async def server(tiny_model):
    async with VLLMLikeServer(load_model(tiny_model).tokenizer).serving() as server:
        yield server


@pytest.fixture
def config(tiny_model, server):
    return GRPOConfig(
        model=str(tiny_model),
        model_alias="tiny",
        lora_rank=2,
        max_tokens=8,
        inference=server.url.replace("http", "vllm"),
    )


@asynccontextmanager
async def opened(config, store, version=0):
    policy = Policy(config, store)
    try:
        await policy.load(None, version=version)
        policy.set_sampling(forced={"temperature": config.temperature}, max_tokens=8)
        await policy.open_gateway()
        yield policy
    finally:
        await policy.stop()


async def test_a_training_step_reaches_the_server(config, store, server):
    """Calls are recorded with the server's ids and log-probabilities under the version that was
    loaded; a step loads the next one, and at the end the server is as it was.
    """
    async with opened(config, store, version=4) as policy:
        assert not policy.inference.shares_weights
        good = await recorded(policy, store)
        (choice,) = good.choices
        assert choice.logprobs == [logprob_of(token) for token in choice.token_ids]
        assert [span.version for span in choice.versions] == [4]
        server.say = "blue"
        bad = await recorded(policy, store, topic="sum")
        outcomes = [outcome("good", 1.0, good), outcome("bad", 0.0, bad)]
        batch, _ = batch_from_outcomes(outcomes, config, seed="0")
        metrics = await policy.train(batch, loss_spec(config))
        assert metrics["training/grad_norm"] > 0
        after = await recorded(policy, store)
        assert [span.version for span in after.choices[0].versions] == [5]
        assert [name.rsplit("-", 1)[1] for name in server.adapters] == ["v4", "v5"]
        assert policy.history_metrics()["history/prompts_first"] == 3
    assert server.adapters == {}


async def test_probabilities_must_be_those_of_the_draw(config, store, server):
    """At another temperature than 1 a server that leaves it out is refused; at 1 it is right."""
    server.mode = "raw_logprobs"
    with pytest.raises(ConfigurationError, match=r"temperature=0\.7 .*processed_logprobs"):
        async with opened(replace(config, temperature=0.7), store):
            pass
    async with opened(config, store) as policy:
        assert len((await recorded(policy, store)).choices[0].token_ids) == 4
