"""Fits of one or two steps with a real engine, gateway, runner and train backend."""

import asyncio
import contextlib
import json

import pytest

from agentlightning._internal.clock import monotonic
from agentlightning.algorithm.policy.batch import batch_from_outcomes, loss_spec
from agentlightning.algorithm.policy.curriculum import step_task_indices
from agentlightning.algorithm.policy.outcome import fetch_outcome
from agentlightning.algorithm.policy.policy import Policy
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.errors import ConfigurationError, EmptyBatchError, TrainingError
from agentlightning.store.retention import is_read
from tests.algorithm.fits import HELD_OUT, TASKS
from tests.algorithm.working import Scribe, working

pytestmark = pytest.mark.usefixtures("one_thread")


async def test_a_fit_measures_trains_and_measures_again(fits):
    """Evaluation, steps, evaluation; everything is counted, saved and said."""
    result = await fits.fit(held_out=HELD_OUT, steps=2)
    watcher = fits.watcher
    assert watcher.events == [
        "started",
        ("evaluated", 0, 2),
        ("stepped", 1),
        ("stepped", 2),
        ("evaluated", 2, 2),
        ("ended", False),
    ]
    assert (watcher.info.first_step, watcher.info.total_steps) == (0, 2)
    phases = [name for name, _, _ in watcher.phases]
    assert list(dict.fromkeys(phases)) == [
        "loading", "evaluating", "sampling", "training", "saving",
    ]  # fmt: skip
    assert ("sampling", 6, 6) in watcher.phases
    assert (result.steps, result.interrupted, result.reason) == (2, False, None)
    assert [(each.step, each.tasks, each.failed) for each in result.evaluations] == [
        (0, 2, 0),
        (2, 2, 0),
    ]
    assert result.best in result.evaluations
    assert result.checkpoint == fits.path / "checkpoints" / "step-000002"
    assert FitResult.load(fits.path) == result
    metrics = watcher.reports[-1].metrics
    assert (metrics["training/global_step"], metrics["training/version"]) == (2, 2)
    assert metrics["training/n_rollouts"] == 6
    assert metrics["training/n_calls_failed"] == 0
    assert watcher.reports[0].best.reward >= watcher.reports[0].worst.reward
    assert f" serve {result.checkpoint}" in "\n".join(watcher.next_steps)


async def test_rollouts_of_a_group_have_one_task_and_one_snapshot(fits):
    """Each step samples its groups under one published version of the resources."""
    await fits.fit(steps=1, held_out=HELD_OUT)
    groups = {}
    for rollout in await fits.rollouts():
        groups.setdefault(rollout.metadata["group_id"], []).append(rollout)
    assert {name: len(members) for name, members in groups.items()} == {"0-0": 3, "0-1": 3}
    for members in groups.values():
        assert len({member.input for member in members}) == 1
    assert len({rollout.resources_id for rollout in await fits.rollouts()}) == 1
    by_step = {rollout.metadata["step"]: rollout for rollout in await fits.rollouts("val")}
    assert by_step.keys() == {0, 1}
    assert by_step[0].resources_id != by_step[1].resources_id


async def test_training_explores_and_evaluation_does_not(fits):
    """Evaluations are greedy: the same weights answer the same task in the same way."""
    await fits.fit(steps=1, held_out=["x", "x", "x"], learning_rate=1e-9)
    answers = {}
    for rollout in await fits.store.query_rollouts():
        (span,) = [
            span
            for span in await fits.store.query_spans(rollout.rollout_id)
            if span.name.startswith("openai")
        ]
        answers.setdefault(rollout.mode, set()).add(tuple(span.attributes["response_token_ids"]))
    assert len(answers["val"]) == 1
    assert len(answers["train"]) > 1


async def test_evaluations_come_as_often_as_asked(fits):
    """With `eval_every` the run is also measured between; no step is measured twice."""
    result = await fits.fit(held_out=HELD_OUT, steps=2, eval_every=1)
    assert [each.step for each in result.evaluations] == [0, 1, 2]


async def test_the_first_evaluation_can_be_left_out(fits):
    """With `eval_first=False` a run begins to learn at once, and is measured at its end."""
    result = await fits.fit(held_out=HELD_OUT, steps=1, eval_first=False)
    assert [each.step for each in result.evaluations] == [1]


async def test_an_evaluation_names_only_a_checkpoint_that_was_kept(fits):
    """Weights that were measured and not saved have no directory to name."""
    result = await fits.fit(held_out=HELD_OUT, steps=2, eval_every=1, checkpoint_every=2, keep=1)
    assert [each.checkpoint for each in result.evaluations] == [None, None, "step-000002"]


@pytest.mark.parametrize("held_out", [None, []])
async def test_without_held_out_tasks_nothing_is_measured(fits, held_out):
    """No evaluation, and the last checkpoint is the one to use."""
    result = await fits.fit(held_out=held_out, steps=1)
    assert (result.evaluations, result.best) == ([], None)
    assert result.checkpoint == fits.path / "checkpoints" / "step-000001"


@pytest.mark.parametrize("tasks", [None, []])
async def test_nothing_to_learn_from_is_refused_at_once(fits, tasks):
    """Without training tasks nothing is loaded or started."""
    with pytest.raises(ConfigurationError, match="needs a train_dataset"):
        await fits.loop(steps=1).run(tasks, None)
    assert fits.watcher.events == []


async def test_a_resumed_run_goes_on_at_the_next_step(fits):
    """No step and no evaluation is repeated, and versions go on from the checkpoint's."""
    first = await fits.fit(held_out=HELD_OUT, steps=1)
    before = {rollout.rollout_id for rollout in await fits.store.query_rollouts()}
    second = await fits.fit(held_out=HELD_OUT, steps=2)
    assert fits.watcher.info.first_step == 1
    assert fits.watcher.events == ["started", ("stepped", 2), ("evaluated", 2, 2), ("ended", False)]
    assert second.evaluations[:2] == first.evaluations
    assert [each.step for each in second.evaluations] == [0, 1, 2]
    assert fits.watcher.reports[0].metrics["training/version"] == 2
    new = [r for r in await fits.store.query_rollouts() if r.rollout_id not in before]
    assert {rollout.metadata["step"] for rollout in new if rollout.mode == "train"} == {1}
    assert len(new) == 6 + len(HELD_OUT)


async def test_a_finished_run_has_nothing_to_do(fits):
    """The same command once more changes nothing and returns the same result."""
    first = await fits.fit(held_out=HELD_OUT, steps=1)
    again = await fits.fit(held_out=HELD_OUT, steps=1)
    assert fits.watcher.events == ["started", ("ended", False)]
    assert (again.steps, again.evaluations) == (first.steps, first.evaluations)
    assert again.checkpoint == first.checkpoint


async def test_a_crash_before_the_checkpoint_repeats_the_learning_only(fits, monkeypatch):
    """The step's rollouts are in the store, so that no rollout runs twice."""
    loop = fits.loop(steps=1)

    def full(path):
        raise OSError("disk full")

    monkeypatch.setattr(fits.policy, "save", full)
    async with working(fits.store, fits.agent):
        with pytest.raises(OSError, match="disk full"):
            await loop.run(TASKS, None)
    assert FitResult.load(fits.path).interrupted
    assert FitResult.load(fits.path).checkpoint is None
    reward = fits.watcher.reports[0].reward
    assert not any(is_read(each) for each in await fits.rollouts())
    await fits.fit(steps=1)
    assert fits.watcher.events == ["started", ("stepped", 1), ("ended", False)]
    assert fits.watcher.reports[0].reward == reward
    assert len(await fits.rollouts()) == 6


async def test_what_a_checkpoint_includes_is_marked_read(fits):
    """Only after it is saved: a retention policy may then remove its rollouts, and no others."""
    other = await fits.store.start_rollout("of another run")
    await fits.store.finish_rollout(other.rollout_id)
    await fits.fit(held_out=HELD_OUT, steps=3, checkpoint_every=2)
    rollouts = await fits.store.query_rollouts()
    assert {each.rollout_id for each in rollouts if not is_read(each)} == {other.rollout_id}


async def test_an_interruption_leaves_a_result_and_no_experience(fits):
    """Cancelled while agents wait: the last checkpoint counts, and open rollouts never will."""
    await fits.fit(steps=1)
    fits.agent.hold = asyncio.Event()
    loop = fits.loop(steps=2)
    async with working(fits.store, fits.agent):
        fit = asyncio.create_task(loop.run(TASKS, None))
        async with asyncio.timeout(20):
            while fits.agent.waiting < 6:
                await asyncio.sleep(0.01)
        fit.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await fit
        assert fit.cancelled()
        fits.agent.hold.set()
    result = FitResult.load(fits.path)
    assert (result.steps, result.interrupted) == (1, True)
    assert result.checkpoint == fits.path / "checkpoints" / "step-000001"
    assert result.reason == "stopped from outside"
    assert fits.watcher.events[-1] == ("ended", True)
    assert "resume" in fits.watcher.next_steps[-1]
    open_ones = [each for each in await fits.rollouts() if each.metadata["step"] == 1]
    assert {rollout.status for rollout in open_ones} == {"cancelled"}
    fits.agent.hold = None
    resumed = await fits.fit(steps=2)
    assert (resumed.steps, resumed.interrupted) == (2, False)
    assert fits.watcher.reports[0].metrics["training/n_rollouts_failed"] == 0


async def test_a_batch_without_signal_warns_and_changes_nothing(fits, caplog):
    """All rollouts alike: the step counts, the weights stay, and the user is told why."""
    fits.agent.grade = lambda answer: 0.0
    await fits.fit(steps=1)
    (report,) = fits.watcher.reports
    assert report.metrics["training/version"] == 0
    assert "none of 2 groups carries a signal, and 12 sampled" in report.warnings[0]
    assert fits.watcher.warnings == report.warnings
    assert "weak training signal" in caplog.messages


async def test_a_batch_of_failures_ends_the_fit(fits):
    """The table of failures is the error, and the result says that the run did not end."""
    fits.agent.grade = lambda answer: answer[99]
    with pytest.raises(EmptyBatchError, match="6 x agent_error, for example IndexError"):
        await fits.fit(steps=1)
    result = json.loads((fits.path / "result.json").read_text())
    assert (result["steps"], result["interrupted"]) == (0, True)
    assert result["reason"].startswith("EmptyBatchError: All 6 rollouts")


async def test_failed_evaluations_count_with_the_failure_reward(fits):
    """A held-out task whose agent fails lowers the score and is counted."""
    fits.agent.grade = lambda answer: answer[99]
    loop = fits.loop(steps=1, failure_reward=0.25)
    async with working(fits.store, fits.agent):
        with pytest.raises(EmptyBatchError):
            await loop.run(TASKS, HELD_OUT)
    (evaluation,) = FitResult.load(fits.path).evaluations
    assert (evaluation.reward, evaluation.tasks, evaluation.failed) == (0.25, 2, 2)


async def plain_run(fits, path, steps):
    """Do by hand what a synchronous fit does, step by step, and save the weights."""
    config, store = fits.config, fits.store
    policy = Policy(config, store)
    await policy.load(None)
    forced = {"temperature": 1.0, "top_p": 1.0, "top_k": None}
    policy.set_sampling(forced=forced, max_tokens=config.max_tokens)
    await policy.open_gateway()
    for step in range(steps):
        resources_id = (await store.add_resources(policy.resources())).resources_id
        order = step_task_indices(seed=0, step=step, batch=config.batch_groups, tasks=len(TASKS))
        groups = {
            f"plain-t{step}-{slot}-{member}": f"{step}-{slot}"
            for slot in range(len(order))
            for member in range(config.group_size)
        }
        for name, group in groups.items():
            task = TASKS[order[int(group.partition("-")[2])]]
            await store.enqueue_rollout(task, "train", resources_id, rollout_id=name)
        ended = {r.rollout_id: r for r in await store.wait_for_rollouts(rollout_ids=list(groups))}
        outcomes = [
            await fetch_outcome(store, ended[name], group_id=group, config=config)
            for name, group in groups.items()
        ]
        batch, _ = batch_from_outcomes(outcomes, config, seed=f"0/{step}")
        await policy.train(batch, loss_spec(config))
    await asyncio.to_thread(policy.save, path)
    await policy.stop()


def weights(path):
    (file,) = path.glob("*.safetensors")
    return file.read_bytes()


async def test_without_staleness_the_weights_are_those_of_a_plain_synchronous_run(fits, tmp_path):
    """Bit for bit, after three steps with an agent whose answers depend on the weights alone."""
    fits.agent.seeded = True
    result = await fits.fit(steps=3, learning_rate=3e-3, concurrency=1)
    plain = tmp_path / "plain"
    plain.mkdir()
    async with working(fits.store, fits.agent, concurrency=1):
        await plain_run(fits, plain, steps=3)
    assert weights(result.checkpoint) == weights(plain)
    assert weights(result.checkpoint.with_name("step-000002")) != weights(plain)
    assert fits.watcher.reports[-1].metrics["training/version"] == 3


@pytest.mark.parametrize("bound", [0, 1, 2])
async def test_sampling_is_ahead_by_the_bound_and_no_more(fits, bound):
    """While the first step waits for its agents, those that may be stale are sampled as well."""
    fits.agent.hold = asyncio.Event()
    loop = fits.loop(steps=4, max_staleness=bound)
    async with working(fits.store, fits.agent, concurrency=32):
        fit = asyncio.create_task(loop.run(TASKS, None))
        async with asyncio.timeout(20):
            while fits.agent.waiting < 6 * (bound + 1):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        steps = {rollout.metadata["step"] for rollout in await fits.rollouts()}
        assert steps == set(range(bound + 1))
        fits.agent.hold.set()
        await fit
    reports = [report.metrics for report in fits.watcher.reports]
    oldest = [metrics["training/staleness_max"] for metrics in reports]
    assert oldest[: bound + 1] == list(range(bound + 1))
    assert max(oldest) <= bound
    assert {metrics["training/async/groups_dropped_stale"] for metrics in reports} == {0}
    assert all(metrics["timing/rollout_queue_wait_s/max"] >= 0 for metrics in reports)


async def test_what_is_sampled_ahead_explores_though_an_evaluation_comes_between(fits):
    """Evaluations wait until nothing is being sampled for training, and only they are greedy."""
    fits.agent.seeded = False
    await fits.fit(
        tasks=["a"],
        held_out=["a", "a", "a"],
        steps=3,
        max_staleness=2,
        eval_every=1,
        batch_groups=1,
        group_size=8,
        learning_rate=1e-9,
    )
    answers = {}
    for rollout in await fits.store.query_rollouts():
        spans = await fits.store.query_spans(rollout.rollout_id)
        (ids,) = [s.attributes["response_token_ids"] for s in spans if s.name.startswith("openai")]
        key = rollout.mode, rollout.metadata["step"]
        answers.setdefault(key, set()).add(tuple(ids))
    assert len(answers) == 3 + 4
    assert all((len(said) == 1) == (mode == "val") for (mode, _), said in answers.items())


class Late(Scribe):
    """Asks for the answers of the second step, which are long, once the first is being trained."""

    def __init__(self):
        super().__init__()
        self.go = asyncio.Event()

    async def rollout_async(self, task, resources, rollout):
        if "-t1-" in rollout.rollout_id:
            await self.go.wait()
            self.options = {"max_tokens": 400, "ignore_eos": True}
        return await super().rollout_async(task, resources, rollout)


@pytest.mark.parametrize("swap", ["wait", "keep"])
async def test_answers_under_way_end_or_go_on_when_the_weights_change(fits, swap):
    """With `keep` an answer is sampled by two versions, and its training row says which token by
    which; with `wait` every answer is of one version."""
    agent = fits.agent = Late()
    loop = fits.loop(steps=2, max_staleness=1, swap=swap)
    learn = loop._learner.learn

    async def learn_amidst(outcomes, *, step):
        agent.go.set()
        async with asyncio.timeout(20):
            while step == 0 and fits.policy.inference.stats().running < 6:
                await asyncio.sleep(0)
        return await learn(outcomes, step=step)

    loop._learner.learn = learn_amidst
    async with working(fits.store, agent):
        await loop.run(TASKS, None)
    first, second = (report.metrics for report in fits.watcher.reports)
    assert (first["training/staleness_max"], second["training/staleness_max"]) == (0, 1)
    outcomes = [
        await fetch_outcome(
            fits.store, rollout, group_id=rollout.metadata["group_id"], config=fits.config
        )
        for rollout in await fits.rollouts()
        if rollout.metadata["step"] == 1
    ]
    batch, _ = batch_from_outcomes(outcomes, fits.config, seed="")
    versions = [row.versions[row.mask] for row in batch.rows]
    assert all((sorted(own) == own).all() for own in versions)
    assert {tuple(sorted(set(own.tolist()))) for own in versions} == {
        "wait": {(0,)},
        "keep": {(0, 1)},
    }[swap]


async def test_a_group_that_became_too_old_is_left_out_whole(fits):
    """Somebody else changes the weights twice: what was sampled before is dropped and counted, and
    without anything left the run ends with a reason."""
    loop = fits.loop(steps=2, max_staleness=1)
    learn = loop._learner.learn

    async def learn_more(outcomes, *, step):
        metrics = await learn(outcomes, step=step)
        for _ in range(2):
            version = fits.policy.version + 1
            await fits.policy.inference.publish(version, fits.policy._backend)
        return metrics

    loop._learner.learn = learn_more
    with pytest.raises(TrainingError, match="more than 1 versions older"):
        async with working(fits.store, fits.agent):
            await loop.run(TASKS, None)
    result = FitResult.load(fits.path)
    assert (result.steps, result.interrupted) == (1, True)
    assert result.reason.startswith("TrainingError: Every group of step 2")
    assert result.checkpoint == fits.path / "checkpoints" / "step-000001"


async def test_with_a_serving_copy_sampling_goes_on_while_a_step_is_trained(fits):
    """The second step's answers are sampled in the middle of the first one's training, and what
    was learnt is published afterwards."""
    agent = fits.agent = Late()
    loop = fits.loop(steps=2, max_staleness=1, overlap=True, swap="keep")
    seen = []

    def step_amidst(batch, loss, adapter, *, version):
        agent.loop.call_soon_threadsafe(agent.go.set)
        before = fits.policy.inference.stats().sampled_tokens
        deadline = monotonic() + 20
        while version == 0 and fits.policy.inference.stats().sampled_tokens < before + 50:
            assert monotonic() < deadline, "nothing is sampled while the step is trained"
        seen.append(version)
        return step(batch, loss, adapter, version=version)

    agent.loop = asyncio.get_running_loop()
    step, load = None, fits.policy.load

    async def load_slowly(checkpoint, *, version=0):
        nonlocal step
        await load(checkpoint, version=version)
        step = fits.policy._backend.step
        fits.policy._backend.step = step_amidst

    fits.policy.load = load_slowly
    async with working(fits.store, agent):
        await loop.run(TASKS, None)
    assert seen == [0, 1]
    first, second = (report.metrics for report in fits.watcher.reports)
    assert (first["training/version"], second["training/version"]) == (1, 2)
    assert second["training/staleness_max"] == 1
