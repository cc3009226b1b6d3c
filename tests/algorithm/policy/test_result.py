"""What a fit leaves behind."""

import pytest

from agentlightning.algorithm.policy.result import Evaluation, FitResult
from agentlightning.errors import CheckpointError


def test_a_result_survives_its_file(tmp_path):
    """`load` gives back what `save` wrote."""
    evaluation = Evaluation(step=3, reward=0.5, tasks=4, checkpoint="step-000003")
    result = FitResult(
        run_dir=tmp_path,
        steps=3,
        best=evaluation,
        evaluations=[evaluation],
        checkpoint=tmp_path / "checkpoints" / "step-000003",
        interrupted=True,
        seconds=1.5,
    )
    result.save()
    assert FitResult.load(tmp_path) == result
    assert not list(tmp_path.glob("*.tmp"))


def test_a_missing_result_is_an_error(tmp_path):
    """A directory where no fit has ended has no result."""
    with pytest.raises(CheckpointError, match="no fit has ended"):
        FitResult.load(tmp_path)
    with pytest.raises(CheckpointError, match="no run directory"):
        FitResult().save()


def test_metrics_are_read_from_the_run_directory(tmp_path):
    """The metrics are those of the file, and none where there is no file."""
    assert FitResult(run_dir=tmp_path).metrics() == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert [line["step"] for line in FitResult(run_dir=tmp_path).metrics()] == [1, 2]
