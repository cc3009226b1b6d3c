"""Preference losses: their values, and slopes that are those of autograd and of TRL."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.learning.preference import PairScores, dpo_loss, kto_loss

LOGPS = st.floats(-60.0, 0.0, allow_nan=False)
PAIRS = st.lists(st.tuples(LOGPS, LOGPS, LOGPS, LOGPS), min_size=1, max_size=5)


def scores_of(rows, tokens=((5.0, 3.0),)):
    columns = np.asarray(rows, dtype=np.float64).T
    sizes = np.resize(np.asarray(tokens, dtype=np.float64), (len(rows), 2)).T
    return PairScores(
        chosen=columns[0], rejected=columns[1], reference_chosen=columns[2],
        reference_rejected=columns[3], chosen_tokens=sizes[0], rejected_tokens=sizes[1],
    )  # fmt: skip


def textbook(kind, chosen, rejected, ref_chosen, ref_rejected, beta, smoothing):
    """The losses as their papers write them, in torch."""
    if kind == "ipo":
        gap = (chosen - ref_chosen) / 5.0 - (rejected - ref_rejected) / 3.0
        return (gap - 1 / (2 * beta)) ** 2
    logit = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -(1 - smoothing) * F.logsigmoid(logit) - smoothing * F.logsigmoid(-logit)


@pytest.mark.parametrize(("kind", "smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.2), ("ipo", 0.0)])
@given(rows=PAIRS, beta=st.floats(0.01, 2.0))
def test_slopes_of_pairs_are_autograds(kind, smoothing, rows, beta):
    """Value and both slopes equal what autograd finds for the textbook loss."""
    chosen, rejected, ref_chosen, ref_rejected = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)
    )
    chosen.requires_grad_()
    rejected.requires_grad_()
    wanted = textbook(kind, chosen, rejected, ref_chosen, ref_rejected, beta, smoothing)
    wanted.sum().backward()
    found = dpo_loss(scores_of(rows), beta=beta, kind=kind, label_smoothing=smoothing)
    np.testing.assert_allclose(found.value, wanted.detach(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.chosen_slope, chosen.grad, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.rejected_slope, rejected.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kind", "golden"), [("sigmoid", 0.6443298), ("ipo", 0.8967819)])
def test_losses_are_those_of_trl(kind, golden):
    """What TRL 1.16's DPOTrainer computed with `beta=0.5` from these scores of two tiny models."""
    rows = [
        (-22.52248, -28.26713, -22.19292, -28.25407),
        (-21.86490, -22.44815, -22.44845, -22.55215),
        (-28.06346, -17.02003, -28.29397, -16.75610),
    ]
    scores = scores_of(rows, tokens=((4.0, 5.0), (4.0, 4.0), (5.0, 3.0)))
    found = dpo_loss(scores, beta=0.5, kind=kind)
    assert found.value.mean() == pytest.approx(golden, abs=2e-5)


def test_a_policy_that_has_not_moved_learns_from_every_pair_alike():
    """At the reference, the loss is log 2 and each answer is pulled by half of beta."""
    found = dpo_loss(scores_of([(-3.0, -9.0, -3.0, -9.0)]), beta=0.3)
    assert found.value == pytest.approx([np.log(2)])
    assert found.chosen_slope == pytest.approx([-0.15])
    assert found.rejected_slope == pytest.approx([0.15])
    assert (found.chosen_reward, found.rejected_reward) == (0.0, 0.0)


@given(
    rows=st.lists(st.tuples(LOGPS, LOGPS, st.booleans()), min_size=1, max_size=6),
    beta=st.floats(0.01, 2.0),
    point=st.floats(0.0, 5.0),
)
def test_slopes_of_labelled_answers_are_autograds(rows, beta, point):
    """KTO's value function, with the reference point as a constant."""
    logp = torch.tensor([row[0] for row in rows], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([row[1] for row in rows], dtype=torch.float64)
    good = torch.tensor([row[2] for row in rows])
    ratio = logp - reference
    wanted = torch.where(
        good,
        1.5 * (1 - torch.sigmoid(beta * (ratio - point))),
        0.5 * (1 - torch.sigmoid(beta * (point - ratio))),
    )
    wanted.sum().backward()
    found = kto_loss(
        logp.detach().numpy(), reference.numpy(), good.numpy(), beta=beta,
        reference_point=point, good_weight=1.5, bad_weight=0.5,
    )  # fmt: skip
    np.testing.assert_allclose(found.value, wanted.detach(), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.slope, logp.grad, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.reward, beta * ratio.detach(), rtol=1e-9)
