"""Correction factors for tokens that another policy sampled."""

import pytest
import torch

from agentlightning.errors import ConfigurationError
from agentlightning.learning.correction import correction_factor

OLD = torch.tensor([-1.0, -1, -1, -0.5, -0.5, -0.5])
ROLLOUT = torch.tensor([-2.2, -1.1, -0.9, -0.6, -0.45, -0.5])
ROW = torch.tensor([0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("none", 0.5, 2.0, [1, 1, 1, 1, 1, 1]),
        ("token_tis", 0.5, 2.0, [2, 1.1052, 0.9048, 1.1052, 0.9512, 1]),
        ("icepop", 0.5, 5.0, [3.3201, 1.1052, 0.9048, 1.1052, 0.9512, 1]),
        ("icepop", 0.5, 2.0, [0, 1.1052, 0.9048, 1.1052, 0.9512, 1]),
        ("sequence_tis", 0.5, 2.0, [2, 2, 2, 1.0513, 1.0513, 1.0513]),
        ("sequence_mask", 0.5, 2.0, [0, 0, 0, 1, 1, 1]),
        ("geo_mask", 0.9, 1.1, [0, 0, 0, 1, 1, 1]),
    ],
)
def test_golden_values(kind, low, high, expected):
    """Each correction reproduces the reference factors."""
    factor = correction_factor(kind, OLD, ROLLOUT, ROW, low=low, high=high)
    assert factor.tolist() == pytest.approx(expected, abs=6e-5)


def test_unknown_correction_is_refused():
    """A wrong name raises."""
    with pytest.raises(ConfigurationError, match="unknown correction"):
        correction_factor("x", OLD, ROLLOUT, ROW)  # pyright: ignore[reportArgumentType]  # on purpose
