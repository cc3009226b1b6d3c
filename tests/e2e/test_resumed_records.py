"""Fits on records that are stopped in the middle, and end as those that nobody disturbed."""

import signal
import time
from collections import Counter
from collections.abc import Generator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch

from agentlightning.algorithm.policy.result import FitResult
from agentlightning.learning.checkpoint import CheckpointStore
from agentlightning.progress.base import StepReport
from tests.algorithm.working import Watcher
from tests.chaos.kill_matrix import ready_processes
from tests.e2e.record_fits import CASES, PATIENCE_SECONDS, PER_STEP, STEPS, fit, reads
from tests.support.tiny_model import make_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny model."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), hidden=32)


@pytest.fixture(scope="module")
def context() -> Generator[ForkServerContext]:
    """Processes that have the libraries loaded when they start."""
    with ready_processes() as context:
        yield context


class FailsAt(Watcher):
    """A watcher that fails when it is told of one step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def stepped(self, report: StepReport) -> None:
        super().stepped(report)
        if report.step == self._step:
            raise RuntimeError("the screen is gone")


def of_training(result: FitResult) -> list[dict[str, Any]]:
    """Return the metrics of all steps, without those that tell times."""
    return [
        {k: v for k, v in line.items() if k.startswith(("step", "training/")) and "second" not in k}
        for line in result.metrics()
        if "training/loss" in line
    ]


def check_equal(parts: Path, whole: Path) -> None:
    """Check that two fits ended with the same weights, optimiser and metrics, to the last bit."""
    results = [FitResult.load(folder / "run") for folder in (parts, whole)]
    for result in results:
        assert (result.steps, result.interrupted, result.reason) == (STEPS, False, None)
    assert of_training(results[0]) == of_training(results[1])
    ends = [
        [(each.step, each.reward, each.metrics) for each in result.evaluations]
        for result in results
    ]
    assert ends[0] == ends[1]
    last = [folder / "run" / "checkpoints" / f"step-{STEPS:06d}" for folder in (parts, whole)]
    one, other = ((path / "trained.safetensors").read_bytes() for path in last)
    assert one == other
    states = [torch.load(path / "state.pt", weights_only=True)["optimizers"] for path in last]
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("title", "stop"), [(title, ("data", "watcher")[n % 2]) for n, title in enumerate(CASES)]
)
def test_what_an_error_stopped_goes_on(title: str, stop: str, model: Path, tmp_path: Path):
    """Stopped in its sixth step or right before it, and resumed from the checkpoint of the fourth, a fit
    reads every record as often, in the same order, and ends with the same weights, bit for bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    fit(title, model, whole)
    planned = reads(whole)
    assert len(planned) == STEPS * PER_STEP
    assert sorted(Counter(planned).values()) == [3, 3, 4, 4, 4]

    if stop == "data":
        with pytest.raises(OSError, match="the disk is gone"):
            fit(title, model, parts, fails_at=6 * PER_STEP)
        told = "OSError: the disk is gone"
    else:
        with pytest.raises(RuntimeError, match="the screen is gone"):
            fit(title, model, parts, [FailsAt(5)])
        told = "RuntimeError: the screen is gone"
    left = FitResult.load(parts / "run")
    assert (left.steps, left.interrupted, left.reason) == (5, True, told)
    assert left.checkpoint == parts / "run" / "checkpoints" / "step-000004"
    before = reads(parts)
    assert before == planned[: len(before)]

    watcher = Watcher()
    fit(title, model, parts, [watcher], resume=True)
    assert watcher.info is not None
    assert watcher.info.first_step == 4
    assert [report.step for report in watcher.reports] == [5, 6, 7, 8, 9]
    assert reads(parts)[len(before) :] == planned[4 * PER_STEP :]
    check_equal(parts, whole)


@pytest.mark.timeout(120)
def test_what_was_killed_goes_on(model: Path, context: ForkServerContext, tmp_path: Path):
    """Killed with -9 between records and while a checkpoint is written, it goes on each time behind
    the last whole checkpoint, and ends with the same weights, bit for bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    fit("DPO", model, whole)
    planned = reads(whole)
    checkpoints = parts / "run" / "checkpoints"
    first = 0
    for waits_at, writing in ((8, False), (8, True), (None, False)):
        before = len(reads(parts))
        options = {"waits_at": waits_at}
        process = context.Process(target=fit, args=("DPO", model, parts), kwargs=options)
        process.start()
        if waits_at is not None:
            wait(parts, before + waits_at - 1, checkpoints if writing else None)
            process.kill()
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == (0 if waits_at is None else -signal.SIGKILL)
        came = reads(parts)[before:]
        assert came == planned[first * PER_STEP :][: len(came)]
        saved = CheckpointStore(checkpoints).latest()
        first = saved.step if saved else 0
        assert first > 0
    assert first == STEPS
    check_equal(parts, whole)


def wait(folder: Path, count: int, checkpoints: Path | None) -> None:
    """Wait until so many records were read, or until a checkpoint is being written in `checkpoints`
    when most of them were."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (done := len(reads(folder))) < count:
        assert time.monotonic() < deadline, "the fit stands still"
        if checkpoints is None:
            time.sleep(0.002)
        elif done >= count - PER_STEP and any(checkpoints.glob("partial-*")):
            return
