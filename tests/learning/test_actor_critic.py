"""Advantages and returns of batches: published values, and what a constant critic amounts to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import TrainingError
from agentlightning.learning.actor_critic import with_estimates
from agentlightning.learning.forward import score_pack
from agentlightning.learning.losses import LossSpec
from agentlightning.learning.objective import StepStatistics, objective
from agentlightning.learning.packing import pack_rows
from tests.learning.tiny import batch_of, random_rows, row, tiny_llama


def at_the_end(batch, rewards):
    """Streams with a row's reward at its last trained token."""
    streams = []
    for one, reward in zip(batch, rewards, strict=True):
        stream = np.zeros(len(one.ids))
        stream[np.flatnonzero(one.mask)[-1]] = reward
        streams.append(stream)
    return streams


def constant(batch, value):
    return [np.where(one.mask, value, 0.0).astype(np.float32) for one in batch]


def test_golden_value_of_gae():
    """The published advantages, with an observation in between; returns add the values."""
    batch = batch_of([row(range(5), [1, 2, 4])])
    values = [np.array([9, 0.2, 0.4, 7, 0.6], dtype=np.float32)]
    found = with_estimates(
        batch, at_the_end(batch, [1.0]), values, gae_lambda=0.95, whitened=False
    ).rows[0]
    assert found.adv == pytest.approx([0, 0.751, 0.58, 0, 0.4])
    assert found.returns == pytest.approx([0, 0.951, 0.98, 0, 1.0])
    white = with_estimates(batch, at_the_end(batch, [1.0]), values, gae_lambda=0.95).rows[0]
    raw = np.array([0.751, 0.58, 0.4])
    assert white.adv[white.mask] == pytest.approx((raw - raw.mean()) / raw.std(ddof=1), abs=1e-6)
    assert white.adv[~white.mask].tolist() == [0, 0]
    assert white.returns == pytest.approx(found.returns)


def gradient(batch, loss):
    """The gradient of a fresh model's loss, as one vector."""
    model = tiny_llama()
    for pack in pack_rows(batch.rows, max_slots=64):
        scores = score_pack(model, pack, layout="tree")
        objective(pack, scores, LossSpec(name=loss), StepStatistics()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=5),
    st.floats(-3, 3),
    st.floats(0.1, 1.0),
)
def test_nothing_is_carried_between_rows(rewards, value, discount):
    """A row's estimates are those it has alone, whatever rows are beside it."""
    rows = [row(range(4 + n), [1, 3 + n]) for n in range(len(rewards))]
    batch = batch_of(rows)
    together = with_estimates(
        batch, at_the_end(batch, rewards), constant(batch, value),
        discount=discount, gae_lambda=0.5, whitened=False,
    )  # fmt: skip
    for one, reward, found in zip(rows, rewards, together, strict=True):
        single = batch_of([one])
        (alone,) = with_estimates(
            single, at_the_end(single, [reward]), constant(single, value),
            discount=discount, gae_lambda=0.5, whitened=False,
        )  # fmt: skip
        assert found.adv.tolist() == alone.adv.tolist()
        assert found.returns.tolist() == alone.returns.tolist()


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6), st.floats(-3, 3))
def test_a_constant_critic_is_a_baseline(rewards, value):
    """At gamma = lambda = 1 every token has its rollout's reward less the constant."""
    batch = batch_of(random_rows())
    found = with_estimates(
        batch, at_the_end(batch, rewards), constant(batch, value), whitened=False
    )
    for one, reward in zip(found, rewards, strict=True):
        want = np.float32(reward) - np.float32(value)
        assert one.adv[one.mask] == pytest.approx([want] * one.n_trained, abs=1e-5)
        assert one.returns[one.mask] == pytest.approx([reward] * one.n_trained, abs=1e-5)


@pytest.mark.parametrize("perfect", [True, False])
def test_ppo_is_reinforce_with_a_baseline(perfect):
    """With such a critic the first PPO step has the gradient of REINFORCE with that baseline."""
    rows = random_rows()
    rewards = [1.0, 0.0, 0.5, 2.0, -1.0, 0.25]
    batch = batch_of(rows)
    # A perfect critic here expects each group's mean, which a rollout falls short of or beats.
    baseline = [0.5, 0.5, 0.5, 5 / 12, 5 / 12, 5 / 12] if perfect else [0.3] * 6
    values = [
        np.where(one.mask, b, 0.0).astype(np.float32) for one, b in zip(rows, baseline, strict=True)
    ]
    ppo = with_estimates(batch, at_the_end(batch, rewards), values, whitened=False)
    plain = batch_of(
        [
            replace(one, adv=one.mask * np.float32(reward - b))
            for one, reward, b in zip(rows, rewards, baseline, strict=True)
        ]
    )
    one, other = gradient(ppo, "ppo_clip"), gradient(plain, "reinforce_is")
    assert one.norm() > 0.1
    assert torch.allclose(one, other, atol=1e-6)


def test_a_value_that_is_not_finite_is_refused():
    """The error names the rollout."""
    batch = batch_of([row(range(3), [1, 2], rollout="ro-7")])
    with pytest.raises(TrainingError, match="ro-7"):
        with_estimates(batch, at_the_end(batch, [float("inf")]), constant(batch, 0.0))
