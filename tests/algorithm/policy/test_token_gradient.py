"""Real steps of REINFORCE++, with and without the reward's KL penalty."""

import pytest

from agentlightning.algorithm.policy.policy import Policy
from agentlightning.algorithm.policy.token_gradient import TokenReturnGradient
from agentlightning.algorithm.reinforce_plus_plus import ReinforcePlusPlusConfig
from tests.algorithm.policy.outcomes import outcome

pytestmark = pytest.mark.usefixtures("one_thread")


async def learn(store, tiny_model, rewards, **settings):
    """Take one step on hand-made outcomes and return its metrics and the batch it trained."""
    config = ReinforcePlusPlusConfig(
        model=str(tiny_model), model_alias="tiny", max_tokens=4, lora_rank=4, **settings
    )
    policy = Policy(config, store)
    await policy.load(None)
    seen = []
    train = policy.train

    async def keep(batch, loss):
        seen.append((batch, loss))
        return await train(batch, loss)

    policy.train = keep
    try:
        outcomes = [
            outcome(f"{group}{n}", reward, group=group)
            for group, members in rewards.items()
            for n, reward in enumerate(members)
        ]
        metrics = await TokenReturnGradient(config, policy).learn(outcomes, step=0)
    finally:
        await policy.stop()
    return metrics, seen


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [(False, [-0.5, -1.5, 1.5, 0.5]), (True, [1, -1, 1, -1])],
)
async def test_rewards_are_whitened_over_the_batch(store, tiny_model, baseline, expected):
    """Plain, an easy task's rollouts look good; with the baseline only the better ones do."""
    metrics, [(batch, loss)] = await learn(
        store, tiny_model, {"a": [1.0, 0.0], "b": [3.0, 2.0]}, baseline=baseline
    )
    got = [float(row.adv[row.mask][0]) for row in batch]
    scale = got[0] / expected[0]
    assert got == pytest.approx([scale * each for each in expected], rel=1e-4)
    assert scale > 0
    assert loss.kl_coef == 0
    assert metrics["training/grad_norm"] > 0


async def test_the_penalty_is_in_the_reward(store, tiny_model):
    """Equal rewards and a KL cost: tokens that the initial model finds likelier get more."""
    metrics, [(batch, loss)] = await learn(
        store, tiny_model, {"a": [1.0, 1.0], "b": [0.0, 0.0]}, baseline=True, kl_coef=0.5
    )
    assert loss.kl_coef == 0
    # The recorded log-probabilities are -0.5 and -0.25; the tiny model knows nothing of them.
    assert metrics["training/kl_reference"] > 1.0
    for row in batch:
        first, second = row.adv[row.mask]
        assert first < second


async def test_unrecorded_probabilities_are_the_trainers_own(store, tiny_model):
    """Before the first step the model is the reference, so that unknown tokens pay nothing."""
    config = ReinforcePlusPlusConfig(
        model=str(tiny_model), model_alias="tiny", max_tokens=4, lora_rank=4, kl_coef=1.0
    )
    policy = Policy(config, store)
    await policy.load(None)
    outcomes = [outcome("a", 1.0), outcome("b", 0.0)]
    for each in outcomes:
        each.calls[0].choices[0].logprobs = []
    try:
        metrics = await TokenReturnGradient(config, policy).learn(outcomes, step=0)
    finally:
        await policy.stop()
    assert metrics["training/kl_reference"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["training/samples_without_logprobs"] == 2


async def test_one_mind_is_no_step(store, tiny_model):
    """Without any difference and with `zero_signal="drop"` nothing is trained."""
    metrics, seen = await learn(
        store, tiny_model, {"a": [1.0, 1.0]}, baseline=True, zero_signal="drop"
    )
    assert seen == []
    assert metrics["training/n_trained_tokens"] == 0
