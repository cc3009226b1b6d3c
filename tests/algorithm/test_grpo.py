"""GRPO as an algorithm: its arguments, its run directory, and one real fit through the trainer."""

import asyncio

import pytest

import agentlightning as agl
from agentlightning.algorithm.grpo import GRPO, GRPOConfig
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.errors import CheckpointError, ConfigurationError
from agentlightning.store.url import open_store
from tests.algorithm.working import Scribe, Watcher, working


def test_a_configuration_or_its_fields():
    """Either form gives the same configuration; both at once are refused by name."""
    assert GRPO(model="m", group_size=4).config == GRPO(GRPOConfig(model="m", group_size=4)).config
    with pytest.raises(ConfigurationError, match="group_size"):
        GRPO(GRPOConfig(model="m"), group_size=4)


def test_unknown_fields_are_named():
    """A misspelt setting is an error that names it."""
    with pytest.raises(ConfigurationError, match=r"grup_size.*see GRPOConfig"):
        GRPO(model="m", grup_size=4)


def test_preparing_makes_the_run_and_names_its_store(tmp_path):
    """The store of a run lies in its directory; unknown names are refused before it is made."""
    run_dir = tmp_path / "run"
    with pytest.raises(ConfigurationError, match="loss='nonsense'"):
        GRPO(model="m", run_dir=str(run_dir), loss="nonsense").prepare(resume=None)
    assert not run_dir.exists()
    url = GRPO(model="m", run_dir=str(run_dir)).prepare(resume=None)
    assert url == f"sqlite:///{run_dir}/store.db"
    assert (run_dir / "config.json").is_file()


def test_resume_says_whether_a_run_must_be_there(tmp_path):
    """`resume` is the trainer's: True needs a run, False refuses one."""
    algorithm = GRPO(model="m", run_dir=str(tmp_path / "run"))
    with pytest.raises(CheckpointError, match="no run to resume"):
        algorithm.prepare(resume=True)
    algorithm.prepare(resume=False)
    with pytest.raises(ConfigurationError, match="holds a run already"):
        algorithm.prepare(resume=False)
    algorithm.prepare(resume=True)


def test_the_result_of_another_process_is_read_from_the_run(tmp_path):
    """An algorithm that ran in a child process left its result in the directory both know."""
    algorithm = GRPO(model="m", run_dir=str(tmp_path / "run"))
    algorithm.prepare(resume=None)
    assert algorithm.get_result() is None
    result = FitResult(run_dir=tmp_path / "run", steps=3)
    result.save()
    assert algorithm.get_result() == result


async def test_only_a_resumed_run_cancels_what_is_open(tmp_path, store):
    """A new run recovers nothing; its continuation cancels what the killed part left."""
    algorithm = GRPO(model="m", run_dir=str(tmp_path / "run"))
    await algorithm.recover(store)
    algorithm.prepare(resume=None)
    run_id = algorithm._run.run_id
    left = await store.enqueue_rollout("a", metadata={"run_id": run_id})
    await algorithm.recover(store)
    assert (await store.get_rollout_by_id(left.rollout_id)).status == "queuing"
    algorithm.prepare(resume=None)
    await algorithm.recover(store)
    assert (await store.get_rollout_by_id(left.rollout_id)).status == "cancelled"


@pytest.mark.usefixtures("one_thread")
def test_a_fit_through_the_trainer(tiny_model, tmp_path):
    """Threads, a store in the run directory, metrics, watchers and a result."""
    watcher = Watcher()
    algorithm = GRPO(
        model=str(tiny_model),
        model_alias="tiny",
        run_dir=str(tmp_path / "run"),
        group_size=3,
        batch_groups=2,
        steps=2,
        max_tokens=2,
        lora_rank=None,
        progress=[watcher],
    )
    assert algorithm.get_result() is None
    trainer = agl.Trainer(algorithm=algorithm, n_runners=2, concurrency=4)
    result = trainer.fit(Scribe(), ["a", "b"], val_dataset=["x"])
    assert algorithm.get_result() == result
    assert (result.steps, result.run_dir, result.interrupted) == (2, tmp_path / "run", False)
    lines = [(line["step"], "val/reward" in line) for line in result.metrics()]
    assert lines == [(0, True), (1, False), (2, False), (2, True)]
    assert watcher.events[-1] == ("ended", False)

    async def count():
        store = open_store(f"sqlite:///{tmp_path}/run/store.db")
        try:
            return [rollout.status for rollout in await store.query_rollouts()]
        finally:
            await store.close()

    assert asyncio.run(count()) == ["succeeded"] * (2 * 6 + 2)


@pytest.mark.usefixtures("one_thread")
async def test_it_runs_without_a_trainer(tiny_model, tmp_path, store):
    """With a store of its own choice, `run` prepares by itself and leaves a result."""
    algorithm = GRPO(
        model=str(tiny_model), model_alias="tiny", run_dir=str(tmp_path / "run"),
        group_size=2, batch_groups=1, steps=1, max_tokens=2, progress=[],
    )  # fmt: skip
    algorithm.set_store(store)
    async with working(store, Scribe()):
        await algorithm.run(["a"])
    assert algorithm.get_result().steps == 1
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
