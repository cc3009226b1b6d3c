"""Engine and trainer are compared before the first update, and on nothing that cannot be compared."""

import asyncio

import numpy as np
import pytest

from agentlightning.algorithm.policy.batch import loss_spec
from agentlightning.algorithm.policy.first_check import comparable
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.errors import TrainingError
from agentlightning.learning.rows import RowBatch, TrainRow
from tests.algorithm.fits import TASKS
from tests.algorithm.working import working

pytestmark = pytest.mark.usefixtures("one_thread")


def row(versions, logp=-1.0, size=4):
    trained = len(versions)
    n = max(size, trained + 1)
    return TrainRow(
        ids=np.arange(n, dtype=np.int32),
        mask=np.arange(n) >= n - trained,
        logp_rollout=np.full(n, logp, np.float32),
        adv=np.ones(n, np.float32),
        weight=np.ones(n, np.float32),
        versions=np.array([-1] * (n - trained) + list(versions), np.int32),
    )


def test_only_rows_of_the_trainers_version_are_compared():
    """Rows of other weights, or whose probabilities nobody recorded, say nothing."""
    good = row([3, 3])
    others = [row([3, 2]), row([4]), row([-1]), row([3], logp=np.nan), row([])]
    assert comparable(RowBatch((*others, good)), 3).rows == (good,)
    assert comparable(RowBatch(tuple(others)), 3).rows == ()


def test_a_part_of_a_large_batch_is_enough():
    """Rows are taken until they hold enough tokens."""
    rows = tuple(row([0], size=1500) for _ in range(5))
    assert comparable(RowBatch(rows), 0).rows == rows[:2]


async def test_the_first_update_tells_how_far_both_are_apart(fits):
    """The metrics of the first step have it, and those of later steps do not."""
    await fits.fit(steps=2)
    first, second = (report.metrics for report in fits.watcher.reports)
    assert 0 <= first["training/agreement_mean"] <= first["training/agreement_max"] < 1e-4
    assert "training/agreement_max" not in second


async def test_a_run_whose_engine_has_other_weights_is_refused(fits):
    """Nothing is trained, and the result says why."""
    loop = fits.loop(steps=1)
    learn = loop._learner.learn

    async def learn_elsewhere(outcomes, *, step):
        for parameter in fits.policy._backend.model.parameters():
            parameter.data += 0.3
        return await learn(outcomes, step=step)

    loop._learner.learn = learn_elsewhere
    async with working(fits.store, fits.agent):
        with pytest.raises(TrainingError, match="engine and trainer disagree"):
            await loop.run(TASKS, None)
    result = FitResult.load(fits.path)
    assert (result.steps, result.checkpoint) == (0, None)
    assert "engine and trainer disagree" in result.reason


async def test_without_anything_comparable_training_goes_on(fits):
    """A batch that no engine sampled is trained all the same."""
    fits.loop(steps=1)
    await fits.policy.load(None)
    try:
        metrics = await fits.policy.train(
            RowBatch((row([-1, -1]), row([0], logp=np.nan))), loss_spec(fits.config)
        )
    finally:
        await asyncio.shield(fits.policy.stop())
    assert "training/agreement_max" not in metrics
    assert fits.policy.version == 1
