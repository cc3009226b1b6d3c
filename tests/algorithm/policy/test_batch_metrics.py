"""What a step says about its data: amounts, quality, and the use of its groups."""

from dataclasses import replace

import pytest

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.batch import batch_from_outcomes
from tests.algorithm.policy.outcomes import outcome, team, told
from tests.support.spans import make_call

CONFIG = GRPOConfig(model="m")


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


def test_each_dimension_of_a_reward_has_its_mean():
    """Whatever the credit; a reward that is one number has no name of its own."""
    outcomes = [team("a", 1.0, right=1.0, style=4.0), team("b", 0.0, right=0.0)]
    outcomes.append(replace(team("c", 0.0, right=9.0), outcome="agent_error"))
    _, metrics = batch_from_outcomes(outcomes, CONFIG, seed="s")
    assert (metrics["training/right/reward"], metrics["training/style/reward"]) == (0.5, 4.0)
    _, metrics = batch_from_outcomes([team("a", 1.0, primary=1.0)], CONFIG, seed="s")
    assert "training/primary/reward" not in metrics
