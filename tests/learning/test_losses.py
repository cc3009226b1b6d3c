"""Losses: published values and gradients, and their agreement on policy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import ComponentNotFoundError
from agentlightning.learning.losses import LossSpec, TokenBatch, loss_names, policy_loss

LOGP = [-1.0, -0.5, -2.0, -0.3, -1.2]
OLD = [-1.2, -0.5, -1.0, -0.9, -1.1]
ADVANTAGE = [1.0, 1.0, 1.0, -1.0, -1.0]
ROW = [0, 0, 0, 1, 1]
TOKEN_MEAN = [0.2] * 5
SEQUENCE_MEAN = [1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4]


def batch(logp=LOGP, old=OLD, advantage=ADVANTAGE, row=ROW):
    logp_N = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    tensors = (torch.tensor(old, dtype=torch.float64), torch.tensor(advantage, dtype=torch.float64))
    return TokenBatch(logp_N, *tensors, torch.tensor(row), max(row) + 1)


GOLDEN = [
    (
        LossSpec(clip_high=0.2),
        TOKEN_MEAN,
        0.031815,
        [0, -0.2, -0.0736, 0.3644, 0.181],
    ),
    (LossSpec(), TOKEN_MEAN, 0.027535, [-0.2443, -0.2, -0.0736, 0.3644, 0.181]),
    (
        LossSpec(name="gspo", clip_low=3e-4, clip_high=4e-4),
        TOKEN_MEAN,
        0.054053,
        [-0.1532, -0.1532, -0.1532, 0.2568, 0.2568],
    ),
    (
        LossSpec(name="cispo", clip_low=1.0, clip_high=4.0),
        TOKEN_MEAN,
        0.164944,
        [-0.2443, -0.2, -0.0736, 0.3644, 0.181],
    ),
    (
        LossSpec(name="sapo"),
        SEQUENCE_MEAN,
        0.187491,
        [-0.2011, -0.1667, -0.0556, 0.3802, 0.2256],
    ),
]


@pytest.mark.parametrize(("spec", "weights", "value", "gradient"), GOLDEN)
def test_golden_values(spec, weights, value, gradient):
    """Value and gradient reproduce the reference to the digits they were printed with."""
    tokens = batch()
    total = (policy_loss(tokens, spec).value * torch.tensor(weights, dtype=torch.float64)).sum()
    total.backward()
    assert total.item() == pytest.approx(value, abs=6e-7)
    assert tokens.logp.grad.tolist() == pytest.approx(gradient, abs=6e-5)


def test_dual_clip_bounds_the_loss_of_bad_tokens():
    """A token with negative advantage and a huge ratio costs `c` advantages, with no gradient."""
    tokens = batch([0.0], [-5.0], [-2.0], [0])
    found = policy_loss(tokens, LossSpec(dual_clip=3.0))
    found.value.sum().backward()
    assert found.value.item() == pytest.approx(6.0)
    assert found.clipped.tolist() == [True]
    assert tokens.logp.grad.tolist() == [0.0]


def test_extreme_ratios_stay_finite():
    """Log-ratios far outside the clamp give finite values and gradients for every loss."""
    for name in loss_names():
        tokens = batch([-900.0, -0.1], [-0.1, -900.0], [1.0, -1.0], [0, 1])
        policy_loss(tokens, LossSpec(name=name, dual_clip=None)).value.sum().backward()
        assert torch.isfinite(tokens.logp.grad).all(), name


def test_unknown_loss_is_refused():
    """A wrong name raises and lists the known ones."""
    with pytest.raises(ComponentNotFoundError, match="ppo_clip"):
        policy_loss(batch(), LossSpec(name="no-such"))


@given(
    st.lists(st.tuples(st.floats(-9, 0), st.floats(-3, 3), st.integers(0, 2)), min_size=1),
    st.sampled_from(["ppo_clip", "cispo", "reinforce_is", "sapo"]),
)
def test_on_policy_every_loss_is_the_policy_gradient(tokens, name):
    """Where the anchor is the policy itself, the gradient is minus the advantage."""
    logp, advantage, row = map(list, zip(*tokens, strict=True))
    found = batch(logp, logp, advantage, row)
    spec = LossSpec(name=name, clip_low=0.2, clip_high=4.0, tau_negative=1.0)
    policy_loss(found, spec).value.sum().backward()
    assert found.logp.grad.tolist() == pytest.approx([-a for a in advantage], abs=1e-9)


@given(st.lists(st.tuples(st.floats(-9, 0), st.floats(-3, 3)), min_size=1))
def test_gspo_on_policy_is_the_policy_gradient(tokens):
    """GSPO's sequence ratio is 1 on policy, and its gradient again minus the advantage."""
    logp, advantage = map(list, zip(*tokens, strict=True))
    found = batch(logp, logp, advantage, [0] * len(logp))
    policy_loss(found, LossSpec(name="gspo")).value.sum().backward()
    assert found.logp.grad.tolist() == pytest.approx([-a for a in advantage], abs=1e-9)


def test_dppo_drops_by_probability_not_by_ratio():
    """A rare token may triple; a common one that rose or fell by 0.2 in its direction is out."""
    old, now = [0.01, 0.5, 0.5, 0.5], [0.03, 0.75, 0.75, 0.25]
    tokens = batch(
        logp=torch.tensor(now).log().tolist(),
        old=torch.tensor(old).log().tolist(),
        advantage=[1.0, 1.0, -1.0, -1.0],
        row=[0, 0, 1, 1],
    )
    found = policy_loss(tokens, LossSpec(name="dppo_tv", tv_coef=0.0))
    assert found.clipped.tolist() == [False, True, False, True]
    assert found.value.tolist() == pytest.approx([-3.0, 0.0, 1.5, 0.0], rel=1e-5)
    penalised = policy_loss(tokens, LossSpec(name="dppo_tv", tv_coef=0.5)).value - found.value
    assert penalised.tolist() == pytest.approx(
        [0.5 * (a - b) ** 2 for a, b in zip(tokens.logp.tolist(), tokens.old.tolist(), strict=True)]
    )


def test_the_off_policy_mask_drops_whole_bad_sequences():
    """Sequences with a negative advantage that became unlikely go; good or near ones stay."""
    tokens = batch(
        logp=[-3.0, -2.0, -3.0, -2.0, -1.1, -1.1],
        old=[-1.0] * 6,
        advantage=[-1.0, -1.0, 1.0, 1.0, -1.0, -1.0],
        row=[0, 0, 1, 1, 2, 2],
    )
    plain = policy_loss(tokens, LossSpec())
    masked = policy_loss(tokens, LossSpec(off_policy_mask=1.0))
    assert masked.value.tolist() == [0.0, 0.0, *plain.value.tolist()[2:]]
    assert masked.clipped.tolist()[:2] == [True, True]
    masked.value.sum().backward()
    assert tokens.logp.grad.tolist()[:2] == [0.0, 0.0]


def test_the_linear_loss_is_the_weighted_likelihood():
    """Whatever policy sampled, each token's gradient is minus its advantage."""
    tokens = batch()
    found = policy_loss(tokens, LossSpec(name="linear"))
    torch.testing.assert_close(found.value, -tokens.advantage * tokens.logp)
    found.value.sum().backward()
    torch.testing.assert_close(tokens.logp.grad, -tokens.advantage)
    assert not found.clipped.any()
