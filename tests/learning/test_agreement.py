"""Engine and trainer are compared by the log-probabilities of the same tokens."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from agentlightning.errors import EmptyBatchError, TrainingError
from agentlightning.learning.agreement import check_agreement
from agentlightning.learning.backends.torch import TorchConfig, TorchTrainBackend
from tests.learning.tiny import batch_of, plain_logp, random_rows, row, tiny_llama


def sampled(model, *, off=0.0):
    """Rows with the model's own log-probabilities, one token's shifted by `off`."""
    rows = []
    for one in random_rows():
        logp = one.logp_rollout.copy()
        with torch.no_grad():
            logp[one.mask] = plain_logp(model, one).float().numpy()
        logp[np.flatnonzero(one.mask)[0]] -= off
        rows.append(replace(one, logp_rollout=logp))
    return batch_of(rows)


def backend(dtype=torch.float32):
    return TorchTrainBackend(tiny_llama(dtype=dtype), config=TorchConfig())


def test_the_same_weights_agree():
    """The difference is rounding, and every known token is counted."""
    trained = backend()
    batch = sampled(trained.model)
    found = check_agreement(trained, batch)
    assert found.largest < 1e-4
    assert found.tokens == batch.n_trained
    assert found.metrics()["training/agreement_max"] == found.largest


def test_other_weights_are_refused_in_full_precision():
    """One token off by more than 0.01 stops the run, with both figures."""
    trained = backend()
    with pytest.raises(TrainingError, match="disagree"):
        check_agreement(trained, sampled(trained.model, off=0.05))
    with pytest.raises(TrainingError, match="disagree"):
        check_agreement(trained, sampled(tiny_llama(seed=1)))


def test_half_precision_only_warns(caplog):
    """In bf16 rounding is no reason to stop; a large mean difference is worth a warning."""
    trained = backend(torch.bfloat16)
    assert check_agreement(trained, sampled(trained.model, off=0.05)).within_limits
    with caplog.at_level(logging.WARNING):
        found = check_agreement(trained, sampled(tiny_llama(seed=1)))
    assert not found.within_limits
    assert "disagree" in caplog.text


def test_nothing_to_compare_is_an_error():
    """Rows without the engine's log-probabilities cannot be compared."""
    with pytest.raises(EmptyBatchError):
        check_agreement(backend(), batch_of([row([1, 2, 3], [1])]))
