"""New runs, continued runs, and directories that are neither."""

import json

import pytest

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.run_dir import RunDirectory
from agentlightning.errors import CheckpointError, ConfigurationError


def config(path, **changes):
    return GRPOConfig(model="m", run_dir=str(path), **changes)


def test_the_same_command_again_continues(tmp_path):
    """The second opening finds the first run, with its id, as its second session."""
    first = RunDirectory.open(config(tmp_path / "r"), algorithm="GRPO", resume=None)
    again = RunDirectory.open(config(tmp_path / "r"), algorithm="GRPO", resume=None)
    assert (first.resumed, again.resumed) == (False, True)
    assert (again.run_id, again.session) == (first.run_id, 2)
    assert again.path == first.path


def test_resume_true_needs_a_run(tmp_path):
    """Asked to resume, a missing run is an error and nothing is made."""
    with pytest.raises(CheckpointError, match="no run to resume"):
        RunDirectory.open(config(tmp_path / "r"), algorithm="GRPO", resume=True)
    assert not (tmp_path / "r").exists()
    with pytest.raises(CheckpointError, match="run_dir="):
        RunDirectory.open(GRPOConfig(model="m"), algorithm="GRPO", resume=True)


def test_resume_false_never_overwrites(tmp_path):
    """Asked for a new run, an existing one is an error."""
    RunDirectory.open(config(tmp_path / "r"), algorithm="GRPO", resume=False)
    with pytest.raises(ConfigurationError, match="holds a run already"):
        RunDirectory.open(config(tmp_path / "r"), algorithm="GRPO", resume=False)


def test_other_settings_are_refused_by_name(tmp_path):
    """A run does not silently go on under another configuration; its length may change."""
    RunDirectory.open(config(tmp_path / "r", steps=3), algorithm="GRPO", resume=None)
    with pytest.raises(ConfigurationError, match=r"group_size 8 → 4"):
        RunDirectory.open(config(tmp_path / "r", group_size=4), algorithm="GRPO", resume=None)
    with pytest.raises(ConfigurationError, match="not of PPO"):
        RunDirectory.open(config(tmp_path / "r"), algorithm="PPO", resume=None)
    longer = RunDirectory.open(config(tmp_path / "r", steps=9), algorithm="GRPO", resume=True)
    assert longer.resumed


def test_what_changed_on_a_resume_is_kept(tmp_path):
    """After a step that diverged the rate may be lower; the file says what it was before."""
    RunDirectory.open(config(tmp_path / "r", learning_rate=0.1), algorithm="GRPO", resume=None)
    RunDirectory.open(config(tmp_path / "r", learning_rate=0.01), algorithm="GRPO", resume=True)
    stored = json.loads((tmp_path / "r" / "config.json").read_text())
    assert stored["config"]["learning_rate"] == 0.01
    assert stored["replaced"] == [{"until_session": 1, "settings": {"learning_rate": 0.1}}]


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Settings that came since are taken at their defaults."""
    RunDirectory.open(config(tmp_path / "r"), algorithm="GRPO", resume=None)
    path = tmp_path / "r" / "config.json"
    stored = json.loads(path.read_text())
    del stored["config"]["credit"]
    path.write_text(json.dumps(stored))
    assert RunDirectory.open(config(tmp_path / "r"), algorithm="GRPO", resume=True).resumed
    path.write_text(json.dumps(stored))
    with pytest.raises(ConfigurationError, match="credit 'rollout' → 'turn'"):
        RunDirectory.open(config(tmp_path / "r", credit="turn"), algorithm="GRPO", resume=True)


def test_somebody_elses_directory_is_left_alone(tmp_path):
    """A directory with other files is refused."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigurationError, match="not empty"):
        RunDirectory.open(config(tmp_path), algorithm="GRPO", resume=None)


def test_unnamed_runs_do_not_collide(tmp_path, monkeypatch):
    """Two runs without a directory get one each, below the runs directory."""
    monkeypatch.setenv("AGL_RUNS_DIR", str(tmp_path))
    paths = {
        RunDirectory.open(GRPOConfig(model="m"), algorithm="GRPO", resume=None).path
        for _ in range(2)
    }
    assert len(paths) == 2
    assert all(path.parent == tmp_path for path in paths)


@pytest.mark.parametrize(
    "wrong",
    [
        {"group_size": 1},
        {"batch_groups": 0},
        {"temperature": 0.0},
        {"learning_rate": -1.0},
        {"steps": 0},
        {"epochs": 0},
        {"lora_rank": 0},
        {"max_empty_share": 2.0},
        {"keep": 0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    """A setting out of range is an error that names it."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        GRPOConfig(model="m", **wrong)


def test_steps_follow_from_epochs():
    """Without steps, the number of passes decides; there is always one step."""
    assert GRPOConfig(model="a/b", batch_groups=4, epochs=2).total_steps(10) == 5
    assert GRPOConfig(model="a/b", batch_groups=40).total_steps(10) == 1
    assert GRPOConfig(model="a/b", steps=7).total_steps(10) == 7
    assert GRPOConfig(model="a/b").alias == "b"
