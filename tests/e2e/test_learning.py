"""The whole loop on a CPU: agents over HTTP, a real model, real gradient steps."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agentlightning.algorithm.policy.result import FitResult
from agentlightning.store.base import is_finished
from agentlightning.store.retention import READ_KEY
from agentlightning.store.url import open_store
from tests.e2e.tool_picker import make_trainer, make_untrained_model, pick_tool, tasks

STEPS = 32
PER_STEP = 64


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """A model that knows the format and nothing else."""
    return make_untrained_model(tmp_path_factory.mktemp("model"))


@pytest.mark.timeout(180)
def test_a_model_learns_from_scratch_to_pick_the_right_tool(untrained, tmp_path):
    """Reward rises from chance to nearly always, in one process, through `Trainer.fit`."""
    trainer = make_trainer(untrained, tmp_path / "run", strategy="shm", steps=STEPS)
    result = trainer.fit(pick_tool, tasks(64), val_dataset=tasks(8))
    rewards = [line["training/reward"] for line in result.metrics() if "training/reward" in line]
    assert len(rewards) == STEPS
    assert sum(rewards[:2]) / 2 < 0.55
    assert sum(rewards[-3:]) / 3 > 0.8
    assert result.best is not None
    assert result.best.reward >= 0.75
    assert result.checkpoint is not None
    assert not result.interrupted
    assert FitResult.load(tmp_path / "run") == result


@pytest.mark.timeout(180)
def test_nothing_is_learnt_from_shuffled_advantages(untrained, tmp_path):
    """The negative control: the same fit with advantages shuffled in each batch stays at chance."""
    trainer = make_trainer(
        untrained, tmp_path / "run", strategy="shm", steps=8, shuffle_advantages=True
    )
    result = trainer.fit(pick_tool, tasks(64))
    rewards = [line["training/reward"] for line in result.metrics()]
    assert sum(rewards[-3:]) / 3 < 0.6


def _start(model: Path, run_dir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.e2e.tool_picker", str(model), str(run_dir)),
            *("--strategy", "cs", "--steps", str(STEPS)),
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )


def _steps_done(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_text().count('"training/reward":') if path.is_file() else 0


def _wait_for_steps(process: subprocess.Popen[bytes], run_dir: Path, steps: int) -> None:
    deadline = time.monotonic() + 120
    while _steps_done(run_dir) < steps:
        assert process.poll() is None, "the run ended early"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)


def _rollouts(run_dir: Path) -> dict:
    async def read() -> dict:
        store = open_store(f"sqlite:///{run_dir / 'store.db'}")
        try:
            return {rollout.rollout_id: rollout for rollout in await store.query_rollouts()}
        finally:
            await store.close()

    return asyncio.run(read())


def _happened(rollout):
    """Return a rollout without the mark of having been read, which comes with a checkpoint."""
    kept = {key: value for key, value in rollout.metadata.items() if key != READ_KEY}
    return rollout.model_copy(update={"metadata": kept})


@pytest.mark.timeout(240)
def test_a_killed_run_goes_on_where_it_was(untrained, tmp_path):
    """Killed with -9 in mid-run, the same command again keeps what was finished and learns on."""
    run_dir = tmp_path / "run"
    process = _start(untrained, run_dir)
    _wait_for_steps(process, run_dir, STEPS // 2)
    family = psutil.Process(process.pid).children(recursive=True)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    done_before = _steps_done(run_dir)
    before = _rollouts(run_dir)
    finished = {rollout_id for rollout_id, rollout in before.items() if is_finished(rollout)}

    assert _start(untrained, run_dir).wait() == 0

    after = _rollouts(run_dir)
    for rollout_id in finished:
        assert _happened(after[rollout_id]) == _happened(before[rollout_id])
    for rollout_id in before.keys() - finished:
        assert after[rollout_id].status == "cancelled"
    train = [r for r in after.values() if r.mode == "train" and r.status == "succeeded"]
    assert len(train) == STEPS * PER_STEP
    result = FitResult.load(run_dir)
    assert result.best is not None
    assert result.best.reward >= 0.75
    lines = [line for line in result.metrics() if "training/reward" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert done_before < STEPS
    assert {line["training/n_rollouts_failed"] for line in lines} == {0}
    rewards = [line["training/reward"] for line in lines]
    learnt, kept = rewards[done_before - 3 : done_before], rewards[done_before : done_before + 3]
    assert sum(learnt) / 3 > 0.5, "it had learnt too little to tell whether that was kept"
    assert sum(kept) / 3 > sum(learnt) / 3 - 0.2
    assert sum(rewards[-3:]) / 3 > 0.8


@pytest.mark.timeout(120)
def test_ctrl_c_once_ends_cleanly(untrained, tmp_path):
    """One SIGINT: the run stops, says so, exits non-zero, and leaves nobody behind."""
    run_dir = tmp_path / "run"
    process = _start(untrained, run_dir)
    _wait_for_steps(process, run_dir, 2)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    result = FitResult.load(run_dir)
    assert result.interrupted
    assert result.steps >= 2
    assert result.checkpoint is not None
