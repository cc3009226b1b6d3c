"""`agl show`: a run as its directory tells it, finished, under way or cut off."""

import json

import pytest

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.run_dir import RunDirectory
from agentlightning.cli import main
from agentlightning.progress import JsonlSink, StepReport


def step(number, reward, **metrics):
    fields = {"training/reward": reward, "training/mixed_group_share": 0.5, "timing/step_s": 1.25}
    return StepReport(step=number, reward=reward, metrics=fields | metrics)


@pytest.fixture
def run(tmp_path):
    """The directory of a run that has not begun."""
    return RunDirectory.open(
        GRPOConfig(model="org/tiny", run_dir=str(tmp_path / "run")), algorithm="GRPO", resume=None
    )


@pytest.fixture
def shown(run, capsys):
    """`shown(*options)` returns what the command prints."""

    def shown(*options):
        assert main(["show", str(run.path), *options]) == 0
        return capsys.readouterr().out

    return shown


def test_steps_evaluations_and_checkpoints(run, shown):
    """One line a step and an evaluation, the curve's ends, and what can be served."""
    sink = JsonlSink(run.metrics_path)
    sink.evaluated(0, 0.25, 8, 1.0)
    sink.stepped(step(1, 0.5, **{"training/kl": 0.0123, "training/grad_norm": 1.5}))
    sink.stepped(step(2, 0.75))
    sink.evaluated(2, 1.0, 8, 1.0)
    (run.checkpoints_path / "step-000002").mkdir()
    lines = [line.split() for line in shown().splitlines()]
    assert ["1", "0.500", "50%", "0.0123", "1.5000", "1.2"] in lines
    assert ["2", "0.750", "50%", "-", "-", "1.2"] in lines
    text = shown()
    assert f"GRPO on org/tiny, run {run.run_id}, 2 steps, 1 session(s)" in text
    assert "reward 0.500 → 0.750" in text
    assert "evaluation after step 0: 0.250 on 8 tasks" in text
    assert "evaluation after step 2: 1.000 on 8 tasks" in text
    assert "checkpoints: step-000002" in text


def test_a_run_that_has_just_begun(shown):
    """No metrics and no checkpoint yet are nothing to fail at."""
    text = shown()
    assert "0 steps" in text
    assert "checkpoints: none" in text


def test_a_line_that_is_being_written_is_left_out(run, shown):
    """The run may write on while it is looked at."""
    JsonlSink(run.metrics_path).stepped(step(1, 0.5))
    whole = run.metrics_path.read_text()
    run.metrics_path.write_text(whole + whole[: len(whole) // 2])
    assert "1 steps" in shown()


def test_the_last_steps_of_a_long_run(run, shown):
    """`--last` limits the table, not what is said about the whole run."""
    sink = JsonlSink(run.metrics_path)
    for number in range(1, 31):
        sink.stepped(step(number, number / 100))
    numbers = [line.split()[0] for line in shown("--last", "2").splitlines() if "50%" in line]
    assert numbers == ["29", "30"]
    assert len([line for line in shown().splitlines() if "50%" in line]) == 20
    assert "reward 0.010 → 0.300" in shown("--last", "2")


def test_sessions_are_counted(run, shown):
    """A resumed run says how often it was."""
    stored = json.loads((run.path / "config.json").read_text())
    config = GRPOConfig(**stored["config"])
    RunDirectory.open(config, algorithm="GRPO", resume=True)
    assert "2 session(s)" in shown()


def test_a_directory_without_a_run_is_refused(tmp_path, capsys):
    """The error says what is missing; a directory that does not exist is one too."""
    assert main(["show", str(tmp_path)]) == 1
    assert "holds no run: it has no config.json" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
