"""The optimiser: clipping, fp32 masters and refusal of gradients that are not finite."""

import pytest
import torch
from torch import nn

from agentlightning.errors import (
    ConfigurationError,
    ExplodingGradientError,
    NonFiniteLossError,
)
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


def one_weight(**fields):
    """A single weight of 1.0, and an optimiser for it."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    return layer, Optimizer(layer, AdamWConfig(lr=0.1, grad_clip=1.0, **fields))


def push(layer, optimizer, gradient):
    layer.weight.grad = torch.full((1, 1), gradient)
    return optimizer.update()


def test_a_gradient_above_the_limit_changes_nothing():
    """A norm over `grad_norm_limit` raises with figures, and the next update is as if it had not been."""
    layer, optimizer = one_weight(grad_norm_limit=5.0)
    push(layer, optimizer, 4.0)
    before = layer.weight.clone()
    with pytest.raises(ExplodingGradientError, match=r"6.*grad_norm_limit=5.*weight 6"):
        push(layer, optimizer, 6.0)
    assert torch.equal(layer.weight, before)
    assert layer.weight.grad is None
    assert optimizer.updates == 1
    assert push(layer, optimizer, 4.0) == 4.0


def test_a_given_limit_counts_alone():
    """With a limit of one's own a gradient may be any multiple of the median."""
    layer, optimizer = one_weight(grad_norm_limit=1e9)
    for _ in range(9):
        push(layer, optimizer, 0.5)
    assert push(layer, optimizer, 1e6) == 1e6


@pytest.mark.parametrize(("dtype", "rate"), [(torch.float16, 1e5), (torch.float32, 1e37)])
def test_an_update_that_overflows_is_told(dtype, rate):
    """Weights that an update made infinite, or in fp16 those beside sound masters, never pass."""
    model = layer(dtype)
    optimizer = Optimizer(model, AdamWConfig(lr=rate, weight_decay=1.0))
    with pytest.raises(NonFiniteLossError, match=r"infinite.*rate 1e\+.*lower"):
        for value in (1.0, -1.0, 1.0):
            give(model, value)
            optimizer.update()
    assert not torch.isfinite(model.weight.norm())


def test_a_gradient_out_of_proportion_changes_nothing():
    """Far above the running median raises, once there is one; restored runs remember it."""
    layer, optimizer = one_weight()
    push(layer, optimizer, 1e6)
    for _ in range(8):
        push(layer, optimizer, 0.5)
    before = layer.weight.clone()
    fresh_layer, fresh = one_weight()
    fresh.load_state(optimizer.state())
    for one, at in ((layer, optimizer), (fresh_layer, fresh)):
        push(one, at, 100.0)
        with pytest.raises(ExplodingGradientError, match=r"1000 times the median of 0.5"):
            push(one, at, 501.0)
    assert not torch.equal(layer.weight, before)


def test_small_gradients_never_spike():
    """What clipping cuts by less than ten times passes, however small the median is."""
    layer, optimizer = one_weight()
    for _ in range(10):
        push(layer, optimizer, 1e-6)
    assert push(layer, optimizer, 9.0) == 9.0
