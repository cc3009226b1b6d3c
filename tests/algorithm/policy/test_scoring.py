"""What outcomes earned, by rollout, role and dimension."""

from dataclasses import replace

import pytest

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.batch import batch_from_outcomes
from agentlightning.algorithm.policy.earned import Earned
from tests.algorithm.policy.outcomes import advantages, outcome, team


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
