"""The statistics of an objective."""

import numpy as np
import pytest
import torch

from agentlightning.learning.objective import StepStatistics


def test_averages_peaks_and_sample_size():
    """Sums become token averages, and ratios their spread, sample size and divergence."""
    statistics = StepStatistics()
    for values in ([1.0, 1.0], [3.0, 1.0]):
        statistics.n += 2
        statistics.ratios.append(np.array(values, dtype=np.float32))
        statistics.add("kl", torch.tensor(values))
        statistics.peak("logp_difference_max", torch.tensor(values))
    metrics = statistics.metrics()
    assert metrics["training/kl"] == pytest.approx(1.5)
    assert metrics["training/logp_difference_max"] == 3.0
    assert metrics["training/ratio_mean"] == pytest.approx(1.5)
    assert metrics["training/ratio_max"] == 3.0
    assert metrics["training/ratio_p95"] == pytest.approx(2.7)
    assert metrics["training/ratio_p99"] == pytest.approx(2.94)
    assert metrics["training/ess"] == pytest.approx(36 / (4 * 12))
    assert metrics["training/chi2"] == pytest.approx(2.0)
    assert metrics["training/masked_fraction"] == 0.0
