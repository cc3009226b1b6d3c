"""The weight stream equals the averages it stands for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import ConfigurationError, TrainingError
from agentlightning.learning.weights import Shares, row_weights


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("token_mean", 3.0),
        ("seq_mean_token_sum", 7.5),
        ("seq_mean_token_mean", 3.25),
        ("seq_mean_token_sum_norm", 2.5),
        ("rollout_mean", 3.25),
        ("prompt_mean", 3.0),
        ("dr_grpo", 2.5),
    ],
)
def test_golden_values(aggregate, expected):
    """Weighted sums of the reference losses give the reference averages."""
    weights = row_weights(aggregate, Shares.of([3, 2], ["i", "j"], ["g", "g"]), length=3)
    assert weights[0] * (1 + 2 + 3) + weights[1] * (4 + 5) == pytest.approx(expected)


def test_prompt_mean_gives_each_group_the_same_share():
    """A group with many tokens weighs as much as one with few."""
    weights = row_weights("prompt_mean", Shares.of([30, 10, 2], "abc", ["g", "g", "h"]))
    assert weights == pytest.approx([1 / 80, 1 / 80, 1 / 4])


def test_wrong_input_is_refused():
    """Unknown aggregates and a missing length raise."""
    shares = Shares.of([1], ["i"], ["g"])
    with pytest.raises(ConfigurationError, match="choose one of"):
        row_weights("mean", shares)  # pyright: ignore[reportArgumentType]  # wrong on purpose
    with pytest.raises(ConfigurationError, match="length"):
        row_weights("dr_grpo", shares)
    with pytest.raises(TrainingError, match="one entry per row"):
        Shares.of([1], [], ["g"])


counts = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), min_size=1, max_size=12)


@given(counts)
def test_mean_aggregates_sum_to_one(rows):
    """For a loss of 1 on every token each mean is 1, rows without tokens included."""
    tokens = [t for t, _ in rows]
    rollouts = [r for _, r in rows]
    shares = Shares.of(tokens, rollouts, [r % 2 for r in rollouts])
    for aggregate in ("rollout_mean", "token_mean", "prompt_mean", "seq_mean_token_mean"):
        total = float((row_weights(aggregate, shares) * shares.tokens).sum())
        assert total == pytest.approx(1.0 if sum(tokens) else 0.0)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=6))
def test_forks_do_not_change_a_rollouts_share(spans):
    """However a rollout's tokens are spread over rows, its total weight is 1 / N_rollouts."""
    forked = Shares.of([*spans, 7], [0] * len(spans) + [1], ["g"] * (len(spans) + 1))
    weights = row_weights("rollout_mean", forked)
    assert float((weights[:-1] * spans).sum()) == pytest.approx(0.5)
    assert weights[-1] * 7 == pytest.approx(0.5)
