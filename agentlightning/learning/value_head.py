"""The value head: from a hidden state to what is still to be earned from there."""

import torch
from torch import Tensor, nn

__all__ = ["ValueHead"]


class ValueHead(nn.Module):
    """One linear unit in fp32, whatever the hidden states' dtype. It starts at 0 everywhere."""

    def __init__(self, width: int, *, device: torch.device | None = None) -> None:
        """Make a head for hidden states of so many numbers."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, device=device))
        self.bias = nn.Parameter(torch.zeros((), device=device))

    def forward(self, hidden_MD: Tensor) -> Tensor:
        """Return the value of each hidden state, `[M]`."""
        return hidden_MD.float() @ self.weight + self.bias
