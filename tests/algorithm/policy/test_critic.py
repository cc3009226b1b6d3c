"""PPO's learner: what it makes of outcomes, and what it trains when."""

from dataclasses import replace

import numpy as np
import pytest

from agentlightning.algorithm.policy.critic import ActorCritic
from agentlightning.algorithm.policy.earned import Earned
from agentlightning.algorithm.policy.policy import Policy
from agentlightning.algorithm.ppo import PPOConfig
from tests.algorithm.policy.test_batch import outcome
from tests.support.spans import make_call


async def learn(store, tiny_model, outcomes, *, steps=1, **settings):
    """Learn from the same outcomes in each step; return metrics, batches and values of each."""
    config = PPOConfig(
        model=str(tiny_model), model_alias="tiny", max_tokens=4, lora_rank=4, **settings
    )
    policy = Policy(config, store)
    await policy.load(None)
    trained, taught = [], []
    train, train_critic = policy.train, policy.train_critic

    async def keep(batch, loss):
        trained.append(batch)
        return await train(batch, loss)

    async def keep_critic(batch, loss):
        taught.append(batch)
        return await train_critic(batch, loss)

    policy.train, policy.train_critic = keep, keep_critic
    try:
        learner = ActorCritic(config, policy)
        metrics = [await learner.learn(outcomes, step=step) for step in range(steps)]
        return metrics, trained, taught, policy.version
    finally:
        await policy.stop()


def two_turns(name, *, earned=None, reward=1.0):
    """An outcome whose second call extends the first: one row with an observation in between."""
    first = make_call(f"{name}0")
    second = make_call(f"{name}1", start=2.0, end=3.0, prompt_token_ids=[10, 11, 12, 13, 20, 21])
    given = earned or Earned(final=reward, own=reward, closing=reward)
    return replace(outcome(name, reward, group=name), calls=(first, second), earned=given)


@pytest.mark.usefixtures("one_thread")
async def test_advantages_are_returns_less_values(store, tiny_model):
    """A critic that expects nothing leaves the reward; what is whitened is the whole batch."""
    outcomes = [outcome("a", 3.0, group="a"), outcome("b", 1.0, group="b")]
    (metrics,), (batch,), (taught,), version = await learn(store, tiny_model, outcomes)
    got = {one.rollout_id: one.adv[one.mask] for one in batch}
    white = np.sqrt(3) / 2
    assert got["a"] == pytest.approx([white] * 2, rel=1e-4)
    assert got["b"] == pytest.approx([-white] * 2, rel=1e-4)
    assert {one.rollout_id: one.returns[one.mask].tolist() for one in taught} == {
        "a": [3.0, 3.0],
        "b": [1.0, 1.0],
    }
    assert version == 1
    assert metrics["training/n_trained_tokens"] == 4
    assert metrics["training/n_zero_adv_groups"] == 0
    assert metrics["critic/returns/mean"] == 2.0
    assert metrics["critic/vf_loss"] == pytest.approx(0.5 * (9 + 1) / 2)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("credit", "first", "second"), [("span", 3.0, 1.0), ("rollout", 9.0, 9.0), ("turn", 7.0, 1.0)]
)
async def test_rewards_of_calls_are_at_their_ends(store, tiny_model, credit, first, second):
    """A linked reward belongs to its call and what led to it; `rollout` knows the last one only."""
    earned = Earned(final=9.0, own=1.0, closing=1.0, linked={"a0": 2.0}, between={"a0": 4.0})
    outcomes = [two_turns("a", earned=earned)]
    _, (batch,), (taught,), _ = await learn(
        store, tiny_model, outcomes, credit=credit, whiten=False
    )
    (one,) = taught
    assert one.ids.tolist() == [10, 11, 12, 13, 20, 21, 12, 13]
    assert one.mask.tolist() == [False, False, True, True, False, False, True, True]
    assert one.returns.tolist() == [0, 0, first, first, 0, 0, second, second]
    (one,) = batch
    assert one.adv.tolist() == [0, 0, first, first, 0, 0, second, second]


@pytest.mark.usefixtures("one_thread")
async def test_discounts_skip_observations(store, tiny_model):
    """Between the turns only sampled tokens cost discount, and lambda uses the critic's values."""
    outcomes = [two_turns("a")]
    _, _, (first, second), _ = await learn(
        store, tiny_model, outcomes, steps=2, discount=0.5, gae_lambda=0.5,
        critic_learning_rate=0.1, whiten=False,
    )  # fmt: skip
    (one,) = first
    assert one.returns[one.mask] == pytest.approx([1 / 64, 1 / 16, 1 / 4, 1])
    (one,) = second
    values = one.values[one.mask].astype(float)
    assert np.abs(values).min() > 0
    advantage, want = 0.0, []
    for reward, value, after in zip([1, 0, 0, 0], values[::-1], [0, *values[:0:-1]], strict=True):
        advantage = reward + 0.5 * after - value + 0.25 * advantage
        want.append(advantage + value)
    assert one.returns[one.mask] == pytest.approx(want[::-1], abs=1e-5)


@pytest.mark.usefixtures("one_thread")
async def test_only_the_critic_learns_at_first(store, tiny_model):
    """During warm-up the policy's version stays; afterwards each step trains both."""
    outcomes = [outcome("a", 1.0, group="a"), outcome("b", 0.0, group="b")]
    metrics, trained, taught, version = await learn(
        store, tiny_model, outcomes, steps=3, critic_warmup_steps=2, critic_learning_rate=1e-2
    )
    assert (len(trained), len(taught), version) == (1, 3, 1)
    assert ["training/loss" in each for each in metrics] == [False, False, True]
    assert metrics[0]["critic/values/mean"] == 0
    assert metrics[2]["critic/values/mean"] != 0


@pytest.mark.usefixtures("one_thread")
async def test_the_penalty_is_in_the_reward(store, tiny_model):
    """Every token pays for its distance to the initial model, and earlier ones share in that."""
    outcomes = [outcome("a", 1.0, group="a")]
    (metrics,), _, (taught,), _ = await learn(
        store, tiny_model, outcomes, kl_reward_coef=0.5, whiten=False
    )
    (one,) = taught
    first, second = one.returns[one.mask]
    # The recorded log-probabilities are -0.5 and -0.25; the tiny model knows nothing of them.
    assert first < second < 1.0
    paid = 1.0 - float(first)
    assert metrics["training/kl_reference"] == pytest.approx(paid / 0.5 / 2, rel=1e-5)


@pytest.mark.usefixtures("one_thread")
async def test_failures_and_unscored_rollouts(store, tiny_model):
    """A failure is an episode with the failure's reward; what has no reward is no episode."""
    outcomes = [
        outcome("a", 1.0, group="a"),
        outcome("b", 0.0, group="b", kind="agent_error"),
        outcome("c", None, group="c", kind="harness_error"),
    ]
    _, (batch,), _, _ = await learn(store, tiny_model, outcomes)
    assert [one.rollout_id for one in batch] == ["a", "b"]


@pytest.mark.usefixtures("one_thread")
async def test_nothing_to_train_is_no_step(store, tiny_model):
    """Without a scored rollout neither critic nor policy learns."""
    outcomes = [outcome("c", None, kind="harness_error")]
    (metrics,), trained, taught, version = await learn(store, tiny_model, outcomes)
    assert (trained, taught, version) == ([], [], 0)
    assert metrics["training/n_trained_tokens"] == 0
    assert metrics["training/n_zero_adv_groups"] == metrics["training/n_groups"]


@pytest.mark.usefixtures("one_thread")
async def test_the_negative_control_hands_out_advantages_at_random(store, tiny_model):
    """The policy gets the same advantages on other tokens; the critic learns what is true."""
    outcomes = [outcome(str(n), float(n), group=str(n)) for n in range(8)]
    _, (plain,), (taught,), _ = await learn(store, tiny_model, outcomes)
    _, (control,), (also,), _ = await learn(store, tiny_model, outcomes, shuffle_advantages=True)
    one, other = (np.concatenate([r.adv[r.mask] for r in batch]) for batch in (plain, control))
    assert sorted(one.tolist()) == sorted(other.tolist())
    assert one.tolist() != other.tolist()
    for left, right in zip(taught, also, strict=True):
        assert left.returns.tolist() == right.returns.tolist()
