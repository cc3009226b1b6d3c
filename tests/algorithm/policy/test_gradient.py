"""The learner by adapters: several agents of one system, each with rewards of its own, in one run."""

import pytest

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.gradient import PolicyGradient
from agentlightning.algorithm.policy.policy import Policy
from tests.algorithm.policy.outcomes import outcome

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("rewards", "version"), [((1.0, 0.0), 1), ((1.0, 1.0), 0)])
async def test_a_step_is_taken_only_where_something_can_be_learnt(
    store, tiny_model, rewards, version
):
    """Mixed rewards change the weights and their version; equal ones are told, and change none."""
    config = GRPOConfig(model=str(tiny_model), model_alias="tiny", lora_rank=None)
    policy = Policy(config, store)
    await policy.load(None)
    try:
        outcomes = [outcome(str(n), reward) for n, reward in enumerate(rewards)]
        metrics = await PolicyGradient(config, policy).learn(outcomes, step=0)
        assert policy.version == version
    finally:
        await policy.stop()
    assert ("training/n_updates" in metrics) == bool(version)
    assert metrics["training/n_trained_tokens"] == 4 * version
