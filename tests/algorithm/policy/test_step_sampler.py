"""What is sampled for a step: more groups than needed, and others for those that taught nothing."""

import asyncio
from collections import Counter

import pytest

from agentlightning.algorithm.policy.collect import CUT_REASON
from agentlightning.store.retention import is_read
from tests.algorithm.working import Scribe, working

pytestmark = pytest.mark.usefixtures("one_thread")


class Uneven(Scribe):
    """Some tasks give all their rollouts the same reward, some never end by themselves."""

    def __init__(self, *, flat=(), slow=()):
        super().__init__()
        self.flat, self.slow = flat, slow
        self.asked = Counter()

    async def rollout_async(self, task, resources, rollout):
        await super().rollout_async(task, resources, rollout)
        if task in self.slow:
            await asyncio.Event().wait()
        self.asked[task] += 1
        return 0.5 if task in self.flat else self.asked[task] % 3 / 2


async def groups_of(fits):
    """Return the tasks of the groups of the first step, and how many rollouts each has."""
    found = Counter()
    for rollout in await fits.rollouts():
        if rollout.status != "cancelled":
            found[rollout.metadata["group_id"], rollout.input] += 1
    return found


TASKS = [f"task {number}" for number in range(12)]


async def test_groups_without_a_signal_are_replaced_by_other_tasks(fits):
    """Refills go on until enough groups carry a signal; the others count in the metrics and are
    not trained."""
    fits.agent = Uneven(flat=TASKS[:9])
    await fits.fit(TASKS, steps=1, zero_signal="refill", max_refills=20)
    groups = await groups_of(fits)
    tasks = [task for _, task in groups]
    good = [task for task in tasks if task in TASKS[9:]]
    assert (len(good), len(set(tasks)), set(groups.values())) == (2, len(tasks), {3})
    assert {name.partition("-r")[0].partition("-")[0] for name, _ in groups} == {"0"}
    metrics = fits.watcher.reports[0].metrics
    assert metrics["training/n_groups"] == len(tasks)
    assert metrics["training/n_zero_adv_groups"] == len(tasks) - 2
    assert metrics["training/async/refills"] == len(
        {n.split("-")[1] for n, _ in groups} - {"0", "1"}
    )
    assert metrics["training/async/groups_refilled"] == len(tasks) - 2 > 0
    assert metrics["training/version"] == 1


async def test_refills_end(fits):
    """Where no task teaches anything, the step ends without training after so many rounds."""
    fits.agent = Uneven(flat=TASKS)
    await fits.fit(TASKS, steps=1, zero_signal="refill", max_refills=2)
    assert len(await groups_of(fits)) == 2 * 3
    metrics = fits.watcher.reports[0].metrics
    assert (metrics["training/async/refills"], metrics["training/version"]) == (2, 0)


async def test_a_resumed_step_refills_as_before(fits, monkeypatch):
    """After a crash the refills ask for the same tasks and find their rollouts."""
    fits.agent = Uneven(flat=TASKS[:9])
    settings = {"steps": 1, "zero_signal": "refill", "max_refills": 20}
    loop = fits.loop(**settings)

    def full(path):
        raise OSError("disk full")

    monkeypatch.setattr(fits.policy, "save", full)
    async with working(fits.store, fits.agent):
        with pytest.raises(OSError, match="disk full"):
            await loop.run(TASKS, None)
    before = {rollout.rollout_id for rollout in await fits.rollouts()}
    first = fits.watcher.reports[0].metrics
    await fits.fit(TASKS, **settings)
    assert {rollout.rollout_id for rollout in await fits.rollouts()} == before
    again = fits.watcher.reports[0].metrics
    for name in ("reward", "n_trained_tokens", "async/refills", "n_groups"):
        assert again[f"training/{name}"] == first[f"training/{name}"]


async def test_a_straggler_is_cut_and_never_trained(fits):
    """Half more groups are started than trained; the slow one is cancelled, counted, and done with."""
    fits.agent = Uneven(slow=TASKS[:1])
    result = await fits.fit(TASKS[:3], steps=2, oversample=1.5)
    assert result.steps == 2
    for report in fits.watcher.reports:
        metrics = report.metrics
        assert (metrics["training/n_groups"], metrics["training/n_rollouts"]) == (2, 6)
        assert metrics["training/async/groups_cut"] == 1
        assert metrics["training/async/rollouts_cut"] == 3
    rollouts = await fits.rollouts()
    assert Counter(rollout.metadata["step"] for rollout in rollouts) == {0: 9, 1: 9}
    slow = [rollout for rollout in rollouts if rollout.input == TASKS[0]]
    assert {(r.status, r.metadata["cancelled"]) for r in slow} == {("cancelled", CUT_REASON)}
    assert all(is_read(rollout) for rollout in rollouts)
