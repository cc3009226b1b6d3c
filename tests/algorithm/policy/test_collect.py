"""Collecting a step's rollouts, also after an earlier session was killed."""

import asyncio

import pytest

import agentlightning as agl
from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy import collect
from agentlightning.algorithm.policy.collect import (
    CUT_REASON,
    Collector,
    PlannedRollout,
    cancel_unfinished,
)
from agentlightning.algorithm.policy.run_dir import RunDirectory
from agentlightning.errors import TrainingError
from agentlightning.store.memory import InMemoryLightningStore
from tests.algorithm.working import working


class Fraction(agl.LitAgent):
    """Earns a hundredth of the task; fails at negative ones."""

    async def rollout_async(self, task, resources, rollout):
        if task < 0:
            raise ValueError("negative")
        return task / 100


def planned(*tasks):
    return [
        PlannedRollout(place=f"t0-0-{index}", group_id="0-0", task=task)
        for index, task in enumerate(tasks)
    ]


def session(path, number, **settings):
    """Return the configuration and the run directory of one part of a run."""
    config = GRPOConfig(**{"model": "m", "rollout_timeout_seconds": 30.0, **settings})
    return config, RunDirectory(path, run_id="run", session=number)


@pytest.fixture
async def collecting(store, tmp_path):
    """`await collecting(tasks, session=1)` returns the outcomes."""
    resources_id = (await store.add_resources({})).resources_id

    async def collecting(*tasks, number=1, on_done=lambda done, total: None, **settings):
        config, run = session(tmp_path, number, **settings)
        collected = await Collector(store, config, run).collect(
            planned(*tasks), mode="train", step=4, resources_id=resources_id, on_done=on_done
        )
        return collected.outcomes

    return collecting


async def test_outcomes_come_in_the_order_of_the_plan(store, collecting):
    """Each planned rollout has its outcome at its place; failures are outcomes too."""
    progress = []
    async with working(store, Fraction()):
        outcomes = await collecting(
            1, 2, -1, 4, on_done=lambda done, total: progress.append((done, total))
        )
    assert [outcome.task for outcome in outcomes] == [1, 2, -1, 4]
    assert [outcome.reward for outcome in outcomes] == [0.01, 0.02, 0.0, 0.04]
    assert [outcome.outcome for outcome in outcomes] == ["ok", "ok", "agent_error", "ok"]
    assert progress[-1] == (4, 4)
    assert progress == sorted(progress)


async def test_rollouts_say_what_they_belong_to(store, collecting):
    """Mode, run, step, group, snapshot and limits are on the rollout itself."""
    async with working(store, Fraction()):
        (outcome,) = await collecting(1, max_attempts=3)
    rollout = await store.get_rollout_by_id(outcome.rollout_id)
    assert outcome.rollout_id == "ro-run-1-t0-0-0"
    assert rollout.mode == "train"
    assert rollout.metadata == {"run_id": "run", "step": 4, "group_id": "0-0"}
    assert rollout.resources_id is not None
    assert rollout.config.timeout_seconds == 30.0
    assert rollout.config.max_attempts == 3
    assert rollout.config.retry_condition == ["unresponsive"]


async def test_a_resumed_step_runs_only_what_is_missing(store, collecting):
    """Ended rollouts of the earlier session are used again, cancelled ones are made anew."""
    async with working(store, Fraction()):
        first = await collecting(1, -1)
    killed = asyncio.create_task(collecting(1, -1, 3, 4))
    async with asyncio.timeout(10):
        while len(await store.query_rollouts()) < 4:
            await asyncio.sleep(0.01)
    killed.cancel()
    await asyncio.wait({killed})
    assert await cancel_unfinished(store, run_id="run") == 2
    async with working(store, Fraction()):
        again = await collecting(1, -1, 3, 4, number=2)
    assert again[:2] == first
    assert [outcome.rollout_id for outcome in again] == [
        "ro-run-1-t0-0-0",
        "ro-run-1-t0-0-1",
        "ro-run-2-t0-0-2",
        "ro-run-2-t0-0-3",
    ]
    assert [outcome.reward for outcome in again] == [0.01, 0.0, 0.03, 0.04]
    assert len(await store.query_rollouts()) == 6


async def test_any_earlier_session_may_have_finished_it(store, collecting):
    """After two interruptions, what either session finished is used."""
    async with working(store, Fraction()):
        await collecting(1)
        await collecting(1, 2, number=2)
        third = await collecting(1, 2, 3, number=3)
    assert [outcome.rollout_id[:8] for outcome in third] == ["ro-run-1", "ro-run-2", "ro-run-3"]
    assert len(await store.query_rollouts()) == 3


class Waiting(Fraction):
    """Earns like `Fraction`, but tasks above 50 wait for the event first."""

    def __init__(self):
        super().__init__()
        self.go = asyncio.Event()

    async def rollout_async(self, task, resources, rollout):
        if task > 50:
            await self.go.wait()
        return await super().rollout_async(task, resources, rollout)


def grouped(groups):
    """Return a plan of the given groups of tasks."""
    return [
        PlannedRollout(place=f"t0-{name}-{member}", group_id=f"0-{name}", task=task)
        for name, tasks in groups.items()
        for member, task in enumerate(tasks)
    ]


@pytest.fixture
async def racing(store, tmp_path):
    """`await racing(groups, wanted, session=1)` returns what was collected."""
    resources_id = (await store.add_resources({})).resources_id

    async def racing(groups, wanted, number=1):
        config, run = session(tmp_path, number)
        return await Collector(store, config, run).collect(
            grouped(groups),
            mode="train",
            step=0,
            resources_id=resources_id,
            on_done=lambda done, total: None,
            wanted=wanted,
        )

    return racing


GROUPS = {"slow": [1, 51], "quick": [2, 3], "late": [52, 53], "next": [-4, 5]}


async def test_stragglers_are_cut_once_enough_groups_are_complete(store, racing):
    """The first whole groups are used in the order of the plan; the others end cancelled, with the
    reason, and their agents are stopped."""
    async with working(store, Waiting()):
        found = await racing(GROUPS, wanted=2)
    assert [each.group_id for each in found.outcomes] == ["0-quick"] * 2 + ["0-next"] * 2
    assert [each.reward for each in found.outcomes] == [0.02, 0.03, 0.0, 0.05]
    assert len(found.queue_waits) == 4
    assert min(found.queue_waits) >= 0
    assert found.groups_cut == 2
    rollouts = {rollout.rollout_id: rollout for rollout in await store.query_rollouts()}
    assert {rollouts[name].input for name in found.cut} == {1, 51, 52, 53}
    cancelled = {r.input: r.metadata for r in rollouts.values() if r.status == "cancelled"}
    assert cancelled.keys() == {51, 52, 53}
    assert {metadata["cancelled"] for metadata in cancelled.values()} == {CUT_REASON}
    assert all(metadata["run_id"] == "run" for metadata in cancelled.values())


async def test_groups_count_in_the_order_in_which_they_were_complete(store, racing):
    """Of the groups that are complete when the step is cut, those that were so first are used."""
    agent = Waiting()
    async with working(store, agent):
        await racing({"next": GROUPS["next"]}, wanted=1)
        await racing({"quick": GROUPS["quick"]}, wanted=1)
        agent.go.set()
        await racing({"late": GROUPS["late"]}, wanted=1)
        found = await racing(GROUPS, wanted=2, number=2)
    assert [each.task for each in found.outcomes] == [2, 3, -4, 5]


async def test_a_resumed_step_uses_the_groups_that_it_had_used(store, racing):
    """After a crash the same groups count again, and nothing is run anew: not even the rollouts
    that were cut."""
    async with working(store, Waiting()):
        first = await racing(GROUPS, wanted=2)
    before = len(await store.query_rollouts())
    again = await racing(GROUPS, wanted=2, number=2)
    assert again.outcomes == first.outcomes
    assert len(await store.query_rollouts()) == before


async def test_a_resumed_step_goes_on_where_too_few_groups_were_complete(store, racing):
    """What had ended is kept, what is missing of every group runs, and the race goes on."""
    killed = asyncio.create_task(racing(GROUPS, wanted=3))
    async with working(store, Waiting()), asyncio.timeout(20):
        while len(await store.query_rollouts(status_in=["succeeded", "failed"])) < 5:
            await asyncio.sleep(0.01)
        killed.cancel()
        await asyncio.wait({killed})
        await cancel_unfinished(store, run_id="run")
    agent = Waiting()
    agent.go.set()
    async with working(store, agent):
        found = await racing(GROUPS, wanted=3, number=2)
    assert {each.group_id for each in found.outcomes} >= {"0-quick", "0-next"}
    assert len(found.outcomes) == 6
    made = [r.input for r in await store.query_rollouts() if r.status != "cancelled"]
    assert len(made) == len(set(made))


async def test_a_step_without_any_end_is_given_up(store, collecting, monkeypatch):
    """No runner serves the store: the error counts what is open and asks for one."""
    monkeypatch.setattr(collect, "_STALL_MARGIN_SECONDS", 0.05)
    with pytest.raises(TrainingError, match=r"2 of 2 rollouts are open.*is a runner alive"):
        await collecting(1, 2, rollout_timeout_seconds=0.1, max_attempts=1)
    assert len(await store.query_rollouts(status_in=["queuing"])) == 2


async def test_every_end_is_a_sign_of_life(store, collecting, monkeypatch):
    """Patience counts from the last end, not from the beginning."""
    # Ten times what a rollout takes, as a busy machine may stand still for a while; less than all.
    monkeypatch.setattr(collect, "_STALL_MARGIN_SECONDS", 2.4)

    async def slow_runner():
        while True:
            claimed = await store.dequeue_rollout(wait_seconds=5)
            await asyncio.sleep(0.25)
            ids = (claimed.rollout_id, claimed.attempt.attempt_id)
            await store.update_attempt(*ids, status="succeeded")

    runner = asyncio.create_task(slow_runner())
    try:
        outcomes = await collecting(*range(12), rollout_timeout_seconds=0.1, max_attempts=1)
    finally:
        runner.cancel()
    assert len(outcomes) == 12


async def test_a_rollout_that_lost_its_runner_may_take_longer(store, collecting, monkeypatch):
    """Each attempt that a rollout may have adds its own time to the patience."""
    monkeypatch.setattr(collect, "_STALL_MARGIN_SECONDS", 0.1)
    with pytest.raises(TrainingError, match=r"none has ended for 1 s"):
        await collecting(1, rollout_timeout_seconds=0.1, max_attempts=3)


async def test_only_open_rollouts_of_the_run_are_cancelled(store):
    """Other runs in the same store, and what has ended, stay as they are."""
    for number in range(5):
        await store.enqueue_rollout(
            number, metadata={"run_id": "run"} if number != 3 else {"run_id": "other"}
        )
    await store.enqueue_rollout(5)
    ended = await store.dequeue_rollout()
    ids = (ended.rollout_id, ended.attempt.attempt_id)
    await store.update_attempt(*ids, status="succeeded")
    await store.dequeue_rollout()
    requeued = await store.dequeue_rollout()
    await store.update_rollout(requeued.rollout_id, status="requeuing")
    assert await cancel_unfinished(store, run_id="run") == 3
    statuses = {rollout.input: rollout.status for rollout in await store.query_rollouts()}
    assert statuses == {
        0: "succeeded",
        1: "cancelled",
        2: "cancelled",
        3: "queuing",
        4: "cancelled",
        5: "queuing",
    }
    assert await cancel_unfinished(store, run_id="run") == 0


async def test_what_ends_while_others_are_cancelled_keeps_its_end():
    """A runner may settle a rollout at the last moment; the others are cancelled all the same."""

    class Racing(InMemoryLightningStore):
        async def query_rollouts(self, **filters):
            found = await super().query_rollouts(**filters)
            ids = (found[0].rollout_id, found[0].attempt.attempt_id)
            await self.update_attempt(*ids, status="succeeded")
            return found

    store = Racing(thread_safe=True)
    ids = [
        (await store.enqueue_rollout(number, metadata={"run_id": "run"})).rollout_id
        for number in range(3)
    ]
    await store.dequeue_rollout()
    assert await cancel_unfinished(store, run_id="run") == 2
    statuses = [(await store.get_rollout_by_id(rollout_id)).status for rollout_id in ids]
    assert statuses == ["succeeded", "cancelled", "cancelled"]
    await store.close()
