"""The value loss: plain and clipped squared errors."""

import pytest
import torch

from agentlightning.errors import ConfigurationError
from agentlightning.learning.value_loss import ValueLossSpec, value_loss


def loss(value, old, target, clip):
    values = torch.tensor(value, requires_grad=True)
    found, clipped = value_loss(values, torch.tensor(old), torch.tensor(target), clip=clip)
    found.sum().backward()
    return found.tolist(), clipped.tolist(), values.grad.tolist()


def test_the_larger_error_counts():
    """A value that moved beyond the bound towards its return has no gradient; others have."""
    found, clipped, gradient = loss([1.0, 0.2, -1.0], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0], 0.5)
    assert found == pytest.approx([0.5 * 1.5**2, 0.5 * 1.8**2, 0.5 * 3.0**2])
    assert clipped == [True, False, False]
    assert gradient == pytest.approx([0.0, -1.8, -3.0])


def test_without_a_bound_it_is_the_squared_error():
    """`clip=None` lets values move as far as they will."""
    found, clipped, gradient = loss([1.0], [0.0], [2.0], None)
    assert (found, clipped, gradient) == ([0.5], [False], [-1.0])


@pytest.mark.parametrize("wrong", [{"clip": 0.0}, {"epochs": 0}, {"mini_batches": 0}])
def test_values_that_make_no_sense_are_refused(wrong):
    """No bound of 0, and at least one update."""
    with pytest.raises(ConfigurationError):
        ValueLossSpec(**wrong)
