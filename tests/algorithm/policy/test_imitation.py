"""What is imitated, and with which weight."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.algorithm.policy.imitation import Imitation, kept_answers
from agentlightning.algorithm.policy.policy import Policy
from agentlightning.algorithm.sft import SFTConfig
from tests.algorithm.policy.outcomes import outcome

NAN = float("nan")


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, NAN]), st.sampled_from("ab")), max_size=10),
    st.integers(1, 3),
    st.sampled_from([None, 0.5]),
)
def test_the_best_of_each_group_are_kept(answers, best, least):
    """As many as asked for where there are that many, and none that is left out is better."""
    rewards, groups = [a for a, _ in answers], [g for _, g in answers]
    kept = kept_answers(rewards, groups, min_reward=least, best_of_group=best)
    for group in set(groups):
        able = [
            p
            for p, g in enumerate(groups)
            if g == group and rewards[p] >= (0.0 if least is None else least)
        ]
        taken = [p for p in able if kept[p]]
        assert len(taken) == min(best, len(able))
        left = [rewards[p] for p in able if not kept[p]]
        assert max(left, default=0.0) <= min((rewards[p] for p in taken), default=1.0)
    assert not any(keep for keep, reward in zip(kept, rewards, strict=True) if np.isnan(reward))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"min_reward": 0.5}, {"a": 1.0, "b": 1.0}),
        ({"best_of_group": 1}, {"a": 1.0, "c": 1.0}),
        ({"weight_by_reward": True}, {"a": 2.0, "b": 0.5}),
    ],
)
async def test_a_step_makes_kept_answers_likelier(store, tiny_model, settings, expected):
    """The others have no row; their prompts and failures still count in the metrics."""
    config = SFTConfig(
        model=str(tiny_model), model_alias="tiny", source="rollouts", group_size=2,
        lora_rank=4, learning_rate=1e-2, **settings,
    )  # fmt: skip
    policy = Policy(config, store)
    await policy.load(None)
    seen, train = [], policy.train

    async def keep(batch, loss):
        seen.append(batch)
        return await train(batch, loss)

    policy.train = keep
    outcomes = [
        outcome("a", 2.0), outcome("b", 0.5), outcome("c", 0.0, group="h"),
        outcome("d", None, group="h", kind="lost"),
    ]  # fmt: skip
    try:
        learner = Imitation(config, policy)
        before = await learner.measure(outcomes)
        metrics = await learner.learn(outcomes, step=0)
        after = await learner.measure(outcomes)
    finally:
        await policy.stop()
    (batch,) = seen
    assert {row.rollout_id: float(row.adv[row.mask][0]) for row in batch} == expected
    assert metrics["training/kept_share"] == len(expected) / 4
    assert metrics["training/n_rollouts_failed"] == 1
    assert after["val/loss"] < before["val/loss"]


@pytest.mark.usefixtures("one_thread")
async def test_nothing_worth_it_is_no_step(store, tiny_model):
    """The policy stays at its version, and every group counts as unused."""
    config = SFTConfig(model=str(tiny_model), model_alias="tiny", source="rollouts", min_reward=5.0)
    policy = Policy(config, store)
    await policy.load(None)
    try:
        metrics = await Imitation(config, policy).learn([outcome("a", 1.0)], step=0)
        assert policy.version == 0
    finally:
        await policy.stop()
    assert (metrics["training/kept_share"], metrics["training/n_zero_adv_groups"]) == (0, 1)
