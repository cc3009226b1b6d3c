"""The statistics of an objective."""

import pytest
import torch

from agentlightning.learning.objective import StepStatistics


def test_averages_peaks_and_sample_size():
    """Sums become token averages, and the effective sample size falls with uneven ratios."""
    statistics = StepStatistics()
    for values in ([1.0, 1.0], [3.0, 1.0]):
        ratio = torch.tensor(values)
        statistics.n += 2
        statistics.add("ratio_mean", ratio)
        statistics.add("ratio_squared", ratio**2)
        statistics.peak("ratio_max", ratio)
    metrics = statistics.metrics()
    assert metrics["training/ratio_mean"] == pytest.approx(1.5)
    assert metrics["training/ratio_max"] == 3.0
    assert metrics["training/ess"] == pytest.approx(36 / (4 * 12))
