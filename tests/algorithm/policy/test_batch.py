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
from agentlightning.algorithm.policy.outcome import RolloutOutcome
from tests.support.spans import make_call

CONFIG = GRPOConfig(model="m", temperature=0.5)


def outcome(name, reward, *, group="g", kind="ok", calls=1):
    return RolloutOutcome(
        rollout_id=name,
        group_id=group,
        task={},
        reward=reward,
        outcome=kind,
        error=None,
        calls=tuple(make_call(f"{name}-{index}") for index in range(calls)),
        span_count=calls,
    )


def advantages(batch):
    """Return each rollout's advantage; all its trained tokens share it."""
    found = {}
    for row in batch:
        (value,) = set(row.adv[row.mask].tolist())
        assert (row.adv[~row.mask] == 0).all()
        assert found.setdefault(row.rollout_id, value) == value
    return found


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


def told(name, reward, *calls, task=None, **given):
    return replace(outcome(name, reward, calls=0), calls=calls, task=task or {}, **given)


def test_data_metrics_describe_what_was_sampled():
    """Answers, cut answers, turns, lengths and data sources, under the names of 0.3.0."""
    cut = make_call("a0", end=1)
    cut.choices[0].finish_reason = "length"
    judge = make_call("a2", start=3, end=4, trained=False, prompt_token_ids=[9])
    outcomes = [
        told("a", 1.0, cut, make_call("a1", start=1, end=2, prompt_token_ids=[5]), judge,
             task={"data_source": "easy"}),
        told("b", 0.0, make_call("b0"), task={"data_source": "hard"}),
        told("c", None, make_call("c0"), task={"data_source": "hard"}),
    ]  # fmt: skip
    _, metrics = batch_from_outcomes(outcomes, CONFIG, seed="s")
    assert metrics["training/n_triplets"] == 5
    assert metrics["training/n_truncated_triplets"] == 1
    assert metrics["training/turn_count"] == pytest.approx(4 / 3)
    assert metrics["training/mean_response_length"] == 2
    assert (metrics["training/easy/reward"], metrics["training/hard/reward"]) == (1.0, 0.0)
    assert metrics["training/masked_tokens_role"] == 2
    assert (metrics["training/n_trained_tokens"], metrics["training/n_wasted_tokens"]) == (6, 4)


def test_the_use_of_groups_is_told():
    """A group without signal is counted, not used, and its tokens are wasted."""
    outcomes = [outcome("a", 1.0), outcome("b", 0.0)]
    outcomes += [outcome("c", 1.0, group="h"), outcome("d", 1.0, group="h")]
    _, metrics = batch_from_outcomes(outcomes, CONFIG, seed="s")
    assert (metrics["training/group_use"], metrics["training/n_zero_adv_groups"]) == (0.5, 1)
    assert (metrics["training/n_trained_tokens"], metrics["training/n_wasted_tokens"]) == (4, 4)
    keeping = replace(CONFIG, zero_signal="keep")
    batch, metrics = batch_from_outcomes(outcomes, keeping, seed="s")
    assert metrics["training/group_use"] == 1
    assert {row.rollout_id for row in batch} == set("abcd")


def team(name, reward, **dimensions):
    calls = (
        make_call(f"{name}0", role="planner", end=1),
        make_call(f"{name}1", role="coder", start=1, end=2, prompt_token_ids=[5]),
    )
    earned = Earned(final=reward, own=reward, closing=reward, dimensions=dimensions)
    return told(name, reward, *calls, earned=earned)


def by_role(batch):
    return {(row.rollout_id, row.role): float(row.adv[row.mask][0]) for row in batch}


def test_each_role_has_the_dimension_of_its_name():
    """By default a role's reward is called like it; one without has the rollout's."""
    config = GRPOConfig(model="m", credit="agent")
    outcomes = [team("a", 4.0, planner=1.0), team("b", 0.0, planner=3.0)]
    batch, metrics = batch_from_outcomes(outcomes, config, seed="s")
    assert by_role(batch) == {
        ("a", "planner"): -1.0, ("b", "planner"): 1.0, ("a", "coder"): 2.0, ("b", "coder"): -2.0,
    }  # fmt: skip
    assert metrics["training/planner/reward"] == 2.0
    assert "training/coder/reward" not in metrics


def test_a_mapped_role_without_its_dimension_is_not_scored():
    """A dimension that is named in the configuration and missing is no reward of 0."""
    config = GRPOConfig(model="m", credit="agent", reward_by_role={"coder": "tests"})
    outcomes = [team("a", 0.0, tests=1.0), team("b", 0.0, tests=0.0), team("c", 1.0)]
    batch, metrics = batch_from_outcomes(outcomes, config, seed="s")
    coder = {name: value for (name, role), value in by_role(batch).items() if role == "coder"}
    assert coder == {"a": 0.5, "b": -0.5}
    assert metrics["training/coder/reward"] == 0.5


def test_a_failed_team_fails_in_every_role():
    """The failure reward is everybody's, whatever dimensions were emitted before."""
    config = GRPOConfig(model="m", credit="agent")
    broken = replace(team("b", -1.0, planner=9.0), outcome="agent_error")
    batch, _ = batch_from_outcomes([team("a", 1.0, planner=1.0), broken], config, seed="s")
    assert set(by_role(batch).values()) == {1.0, -1.0}


@pytest.mark.parametrize(
    ("combination", "expected"), [("sum", [0.5, -0.5]), ("normalise_then_sum", [0.7071, -0.7071])]
)
def test_dimensions_are_weighed(combination, expected):
    """Several dimensions make one reward, added up or normalised first."""
    config = GRPOConfig(
        model="m", reward_weights={"right": 1.0, "style": 0.1}, reward_combination=combination
    )
    dimensions = [{"right": 1.0, "style": 10.0}, {"right": 0.0, "style": 10.0}]
    outcomes = [
        replace(outcome(n, config.reward_of(Earned(dimensions=d))), earned=Earned(dimensions=d))
        for n, d in zip("ab", dimensions, strict=True)
    ]
    batch, _ = batch_from_outcomes(outcomes, config, seed="s")
    assert list(advantages(batch).values()) == pytest.approx(expected, abs=1e-4)


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
