"""Generalised advantage estimation across observation tokens."""

import numpy as np
import pytest

from agentlightning.learning.gae import discounted_returns, gae


def test_golden_value_skips_the_observation():
    """Value and advantage pass an observation token unchanged."""
    mask = np.array([True, True, False, True])
    advantage, returns = gae(
        np.array([0.0, 0, 9, 1]), np.array([0.2, 0.4, 7, 0.6]), mask, gamma=1.0, lam=0.95
    )
    assert advantage == pytest.approx([0.751, 0.58, 0, 0.4])
    assert returns == pytest.approx([0.951, 0.98, 0, 1.0])


def test_returns_discount_once_per_sampled_token():
    """Observation tokens do not cost discount."""
    mask = np.array([True, False, False, True])
    assert discounted_returns(np.array([0.0, 0, 0, 1]), mask, gamma=0.5) == pytest.approx(
        [0.5, 0, 0, 1]
    )
