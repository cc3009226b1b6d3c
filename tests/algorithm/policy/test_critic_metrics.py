"""The metrics of a critic on hand-made batches."""

from dataclasses import replace

import numpy as np
import pytest

from agentlightning.algorithm.policy.critic_metrics import critic_metrics
from tests.learning.tiny import batch_of, row


def estimated(returns, values):
    one = row(range(len(returns) + 1), range(1, len(returns) + 1))
    spread = [np.array([0, *each], dtype=np.float32) for each in (returns, values)]
    return batch_of([replace(one, returns=spread[0], values=spread[1])])


@pytest.mark.parametrize(
    ("values", "explained"), [([1, 2, 3], 1.0), ([2, 2, 2], 0.0), ([3, 2, 1], -3.0)]
)
def test_explained_variance(values, explained):
    """1 for a critic that knows, 0 for a constant, negative for one that misleads."""
    found = critic_metrics(estimated([1, 2, 3], values))
    assert found["critic/vf_explained_var"] == pytest.approx(explained, abs=1e-4)
    assert found["critic/returns/max"] == 3
    assert found["critic/values/min"] == min(values)
    assert found["critic/advantages/mean"] == 1
