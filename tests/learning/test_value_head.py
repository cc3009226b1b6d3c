"""The value head: fp32, and 0 at the start."""

import torch

from agentlightning.learning.value_head import ValueHead


def test_it_starts_at_zero_and_is_linear():
    """Every state is worth 0 at first; later it is weight times state plus bias."""
    head = ValueHead(3)
    states = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]], dtype=torch.bfloat16)
    assert head(states).tolist() == [0.0, 0.0]
    with torch.no_grad():
        head.weight.copy_(torch.tensor([1.0, 0.5, -1.0]))
        head.bias.fill_(4.0)
    assert head(states).tolist() == [3.0, 4.5]
    assert head(states).dtype == torch.float32
