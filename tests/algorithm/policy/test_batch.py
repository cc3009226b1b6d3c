"""From outcomes to rows: who is in a group, and what the negative control does."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.batch import (
    batch_from_outcomes,
    batches_by_adapter,
    loss_spec,
)
from agentlightning.algorithm.policy.earned import Earned
from tests.algorithm.policy.outcomes import advantages, outcome, team, told
from tests.support.spans import make_call

CONFIG = GRPOConfig(model="m", temperature=0.5)


def test_rewards_are_compared_within_their_group():
    """A rollout's advantage is its reward above the mean of its own group."""
    outcomes = [
        outcome("a", 1.0),
        outcome("b", 0.0),
        outcome("c", 5.0, group="h"),
        outcome("d", 4.0, group="h"),
    ]
    batch, metrics = batch_from_outcomes(outcomes, CONFIG, seed="s")
    assert advantages(batch) == {"a": 0.5, "b": -0.5, "c": 0.5, "d": -0.5}
    assert batch.temperature == 0.5
    assert batch.n_trained == 8
    assert metrics["training/reward"] == 2.5
    assert (metrics["training/n_groups"], metrics["training/mixed_group_share"]) == (2, 1)
    assert metrics["training/n_sampled_tokens"] == 8


def test_what_was_sampled_is_what_is_trained():
    """Rows hold the very token ids and probabilities of the calls."""
    batch, _ = batch_from_outcomes([outcome("a", 1.0), outcome("b", 0.0)], CONFIG, seed="s")
    row = next(row for row in batch if row.rollout_id == "a")
    assert row.ids.tolist() == [10, 11, 12, 13]
    assert row.mask.tolist() == [False, False, True, True]
    assert row.logp_rollout[row.mask].tolist() == [-0.5, -0.25]


def test_a_failed_rollout_with_a_reward_stays_in_its_group():
    """Under the policy `reward` a failure counts for the baseline and is trained on."""
    outcomes = [outcome("a", 1.0), outcome("b", 1.0), outcome("c", 0.0, kind="agent_error")]
    batch, metrics = batch_from_outcomes(outcomes, CONFIG, seed="s")
    assert advantages(batch) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": -2 / 3})
    assert metrics["training/n_rollouts_failed"] == 1
    assert metrics["training/n_rollouts_w_reward"] == 3


def test_a_rollout_without_reward_leaves_its_group():
    """What does not count is no row, no part of the baseline, and no part of the mean."""
    outcomes = [outcome("a", 1.0), outcome("b", 0.0), outcome("c", None, kind="harness_error")]
    batch, metrics = batch_from_outcomes(outcomes, CONFIG, seed="s")
    assert advantages(batch) == {"a": 0.5, "b": -0.5}
    assert metrics["training/reward"] == 0.5
    assert (metrics["training/n_rollouts"], metrics["training/n_rollouts_w_reward"]) == (3, 2)


def test_nothing_to_learn_is_an_empty_batch_and_finite_metrics():
    """Equal rewards, or none at all, leave no row and no NaN."""
    for outcomes in ([outcome("a", 1.0), outcome("b", 1.0)], [outcome("a", None)]):
        batch, metrics = batch_from_outcomes(outcomes, CONFIG, seed="s")
        assert batch.n_trained == 0
        assert all(np.isfinite(value) for value in metrics.values())


rewards = st.lists(st.floats(-4, 4, width=16), min_size=2, max_size=6)


@given(groups=st.lists(rewards, min_size=1, max_size=4), seed=st.text(max_size=3))
def test_shuffled_advantages_are_the_same_numbers(groups, seed):
    """The negative control hands the same advantages to other rollouts and changes nothing else."""
    outcomes = [
        outcome(f"{number}-{member}", reward, group=str(number), calls=1 + member % 2)
        for number, group in enumerate(groups)
        for member, reward in enumerate(group)
    ]
    control = GRPOConfig(model="m", shuffle_advantages=True)
    plain, metrics = batch_from_outcomes(outcomes, GRPOConfig(model="m"), seed=seed)
    shuffled, control_metrics = batch_from_outcomes(outcomes, control, seed=seed)
    assert sorted(advantages(shuffled).values()) == sorted(advantages(plain).values())
    assert control_metrics == metrics
    for one, other in zip(plain, shuffled, strict=True):
        assert one.rollout_id == other.rollout_id
        assert (one.ids == other.ids).all()
        assert (one.weight == other.weight).all()


def test_the_shuffle_is_one_and_repeatable():
    """The same seed gives the same order, another seed another one, and neither is the original."""
    outcomes = [outcome(str(index), float(index)) for index in range(12)]
    control = GRPOConfig(model="m", shuffle_advantages=True)
    orders = [
        list(advantages(batch_from_outcomes(outcomes, config, seed=seed)[0]).values())
        for config, seed in [(control, "0/1"), (control, "0/1"), (control, "0/2"), (CONFIG, "0/1")]
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[3] not in orders[:3]


def test_the_loss_is_the_configured_one():
    """Name and clip bounds reach the loss."""
    config = GRPOConfig(model="m", loss="ppo_clip", clip_low=0.1, clip_high=0.3, dual_clip=2.0)
    spec = loss_spec(config)
    assert (spec.name, spec.clip_low, spec.clip_high, spec.dual_clip) == ("ppo_clip", 0.1, 0.3, 2.0)


def test_only_the_selected_roles_are_trained():
    """Calls of other roles stay context or fall away; what is trained is the selected agent's."""
    outcomes = [outcome("a", 1.0, calls=2), outcome("b", 0.0, calls=2)]
    for each in outcomes:
        each.calls[0].role = "planner"
    config = GRPOConfig(model="m", roles="^planner$")
    batch, metrics = batch_from_outcomes(outcomes, config, seed="s")
    assert batch.n_trained == 4
    assert metrics["training/n_sampled_tokens"] == 8


def test_drifted_histories_are_counted_under_the_names_of_0_3_0():
    """A word in other tokens is a retoken mismatch, once the tokens can be read."""
    one = make_call("x", prompt_token_ids=[1, 2])
    one.choices[0].token_ids = [3, 4]
    two = make_call("y", start=2, end=3, prompt_token_ids=[1, 2, 5, 6])
    told = outcome("a", 1.0, calls=0)
    outcomes = [replace(told, calls=(one, two)), outcome("b", 0.0)]

    def decode(ids):
        return "".join({3: "hav", 4: "ing", 5: "having"}.get(i, "?") for i in ids)

    _, metrics = batch_from_outcomes(outcomes, CONFIG, seed="s", decode=decode)
    assert metrics["training/forks_retoken"] == 1
    assert metrics["training/retoken_mismatch_triplets"] == 1
    assert metrics["training/retoken_mismatch_ratio"] == pytest.approx(1 / 3)
    assert metrics["training/template_mismatch_triplets"] == 0
    assert metrics["training/drift_tokens"] == 2


def test_shuffled_calls_keep_their_numbers():
    """With credit by call the negative control hands advantages to other calls."""
    config = GRPOConfig(model="m", credit="span", shuffle_advantages=True)
    outcomes = []
    for number, name in enumerate("abcd"):
        calls = [make_call(f"{name}{n}", start=n, end=n + 1, prompt_token_ids=[n]) for n in (0, 1)]
        earned = Earned(final=number, own=number, linked={f"{name}0": 10.0 * number + 1})
        outcomes.append(told(name, float(number), *calls, earned=earned))
    plain, _ = batch_from_outcomes(outcomes, replace(config, shuffle_advantages=False), seed="s")
    shuffled, _ = batch_from_outcomes(outcomes, config, seed="s")
    before = [float(row.adv[row.mask][0]) for row in plain]
    after = [float(row.adv[row.mask][0]) for row in shuffled]
    assert sorted(before) == sorted(after)
    assert before != after
    for one, other in zip(plain, shuffled, strict=True):
        assert len(set(other.adv[other.mask].tolist())) == 1
        assert (one.weight == other.weight).all()


def test_adapters_have_batches_of_their_own():
    """Each adapter's roles are one batch; together they train what one batch would."""
    outcomes = [team("a", 1.0), team("b", 0.0)]
    batches, metrics = batches_by_adapter(
        outcomes, CONFIG, {"plan": "^planner$", "code": "^coder$"}, seed="s"
    )
    assert {name: [row.role for row in batch] for name, batch in batches.items()} == {
        "plan": ["planner", "planner"],
        "code": ["coder", "coder"],
    }
    assert all(sum(float(row.weight.sum()) for row in b) == 1.0 for b in batches.values())
    assert metrics["training/plan/n_trained_tokens"] == 4
    assert metrics["training/n_trained_tokens"] == 8
    shuffling = replace(CONFIG, shuffle_advantages=True)
    again, _ = batches_by_adapter(outcomes, shuffling, {"plan": "^planner$"}, seed="s")
    assert sorted(float(row.adv[-1]) for row in again["plan"]) == [-0.5, 0.5]
