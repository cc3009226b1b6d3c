"""KL estimates from log-probabilities."""

import pytest
import torch

from agentlightning.errors import ConfigurationError
from agentlightning.learning.kl import kl_estimate, kl_penalty


@pytest.mark.parametrize(("kind", "value"), [("k1", 0.5), ("k2", 0.125), ("k3", 0.106531)])
def test_golden_values(kind, value):
    """The estimates reproduce the reference values."""
    got = kl_estimate(kind, torch.tensor([-1.0]), torch.tensor([-1.5]))
    assert got.item() == pytest.approx(value, abs=1e-6)


def test_unbiased_penalty_has_the_gradient_of_the_reverse_kl():
    """Averaged exactly over a small distribution, its gradient equals the true one; k3's does not."""
    logits = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.7, -0.4], dtype=torch.float64).log_softmax(0)

    def gradient(loss):
        return torch.autograd.grad(loss, logits)[0]

    logp = logits.log_softmax(0)
    true = gradient((logp.exp() * (logp - reference)).sum())
    got, biased = (
        gradient(
            (
                logp.detach().exp()
                * kl_penalty("k3", logits.log_softmax(0), reference, logp.detach(), unbiased=u)
            ).sum()
        )
        for u in (True, False)
    )
    assert torch.allclose(got, true)
    assert not torch.allclose(biased, true, atol=1e-3)


def test_unknown_kind_is_refused():
    """A wrong name raises."""
    with pytest.raises(ConfigurationError, match="k1, k2 or k3"):
        kl_estimate("k4", torch.zeros(1), torch.zeros(1))  # pyright: ignore[reportArgumentType]  # on purpose
