"""The metrics file."""

import json
from dataclasses import replace

from agentlightning.progress import JsonlSink, StepReport
from tests.progress.test_terminal import INFO, play


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_one_line_per_step_and_evaluation(tmp_path):
    """Every line has a step and a time; steps have their metrics, evaluations their reward."""
    path = tmp_path / "metrics.jsonl"
    play(JsonlSink(path))
    evaluation, step = (json.loads(line) for line in path.read_text().splitlines())
    assert (evaluation["step"], evaluation["val/reward"]) == (0, 0.25)
    assert (step["step"], step["speed/tokens_per_second"]) == (1, 250.0)
    assert step["time"] > 0


def test_a_resumed_run_drops_what_it_will_do_again(tmp_path):
    """Lines beyond the point of resumption, and a line cut off by a crash, are dropped."""
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.started(INFO)
    for step in (1, 2, 3):
        sink.stepped(StepReport(step=step, reward=0.0, metrics={}))
    path.write_text(path.read_text() + '{"step": 4, "tra')
    resumed = JsonlSink(path)
    resumed.started(replace(INFO, first_step=2))
    resumed.stepped(StepReport(step=3, reward=1.0, metrics={}))
    assert steps(path) == [1, 2, 3]


def test_a_run_that_begins_anew_leaves_nothing_of_its_first_evaluation(tmp_path):
    """Nothing was saved before the kill, so that the first evaluation is made again."""
    path = tmp_path / "metrics.jsonl"
    JsonlSink(path).evaluated(0, 0.5, 4, 1.0)
    JsonlSink(path).started(replace(INFO, first_step=0))
    assert path.read_text() == ""
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.jsonl"]
