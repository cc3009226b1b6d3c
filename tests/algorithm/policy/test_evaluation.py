"""Measuring the present weights on held-out tasks."""

import pytest

from agentlightning.algorithm.policy.collect import Collector
from agentlightning.algorithm.policy.evaluation import Evaluator
from agentlightning.algorithm.policy.run_dir import RunDirectory
from tests.algorithm.working import Scribe, working

pytestmark = pytest.mark.usefixtures("one_thread")


class Exam(Scribe):
    """Gives each task the reward it names; fails at words."""

    async def rollout_async(self, task, resources, rollout):
        await super().rollout_async(task, resources, rollout)
        return float(task)


async def test_a_measurement_is_the_mean_over_tasks(fits):
    """Failures count with the failure reward; each task has one rollout of mode `val`."""
    fits.loop(steps=1, failure_reward=0.2)
    policy = fits.policy
    await policy.load(None)
    policy.set_sampling(forced={"temperature": 0.0}, max_tokens=2)
    await policy.open_gateway()
    run = RunDirectory(fits.path, run_id="run", session=1)
    collector = Collector(fits.store, fits.config, run)
    progress = []
    try:
        async with working(fits.store, Exam()):
            evaluation, ids = await Evaluator(fits.config, fits.store, policy, collector).measure(
                ["1", "0.6", "word"],
                step=7,
                on_done=lambda done, all_: progress.append((done, all_)),
            )
    finally:
        await policy.stop()
    assert evaluation.reward == pytest.approx(0.6)
    assert (evaluation.step, evaluation.tasks, evaluation.failed) == (7, 3, 1)
    assert evaluation.checkpoint == "step-000007"
    assert evaluation.seconds > 0
    assert progress[-1] == (3, 3)
    assert [rollout.rollout_id for rollout in await fits.rollouts("val")] == ids
