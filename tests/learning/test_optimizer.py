"""The optimiser: clipping, fp32 masters and refusal of gradients that are not finite."""

import pytest
import torch
from torch import nn

from agentlightning.errors import ConfigurationError, NonFiniteLossError
from agentlightning.learning.optimizer import AdamWConfig, Optimizer


def layer(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(3, 2, bias=False).to(dtype)


def give(model, value):
    model.weight.grad = torch.full_like(model.weight, value)


def test_updates_equal_those_of_torch_with_clipping():
    """The result is torch's AdamW after torch's clipping; the norm is that before clipping."""
    ours, theirs = layer(), layer()
    optimizer = Optimizer(ours, AdamWConfig(lr=0.1, grad_clip=0.5))
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.0)
    for value in (2.0, 0.01, -3.0):
        give(ours, value)
        give(theirs, value)
        norm = optimizer.update()
        assert norm == pytest.approx(abs(value) * 6**0.5)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        reference.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)
    assert ours.weight.grad is None


def test_tiny_updates_add_up_in_half_precision():
    """Steps below bf16's resolution are kept in fp32 and show once they add up."""
    model = layer(torch.bfloat16)
    optimizer = Optimizer(model, AdamWConfig(lr=1e-5, grad_clip=None))
    before = model.weight.detach().clone()
    for _ in range(400):
        give(model, 1.0)
        optimizer.update()
    moved = float((before.float() - model.weight.detach().float()).mean())
    assert moved == pytest.approx(400e-5, rel=0.3)


def test_a_gradient_that_is_not_finite_changes_nothing():
    """NaN raises, names the parameter, and forgets the gradient."""
    model = layer()
    optimizer = Optimizer(model, AdamWConfig(lr=0.1))
    before = model.weight.detach().clone()
    give(model, float("nan"))
    with pytest.raises(NonFiniteLossError, match="weight"):
        optimizer.update()
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None
    assert optimizer.updates == 0


def test_parameters_must_fit():
    """Models without trainable parameters and tensors of other shapes are refused."""
    with pytest.raises(ConfigurationError, match="requires a gradient"):
        Optimizer(layer().requires_grad_(requires_grad=False), AdamWConfig(lr=0.1))
    optimizer = Optimizer(layer(), AdamWConfig(lr=0.1))
    with pytest.raises(ConfigurationError, match="do not fit"):
        optimizer.load_parameters({"weight": torch.zeros(1)})
