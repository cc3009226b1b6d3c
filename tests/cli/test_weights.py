"""`agl weights`: a run's weights, written by the command and loaded by others."""

import pytest
from transformers import AutoModelForCausalLM

from agentlightning.cli import main
from tests.algorithm.fits import one_large_step
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The result of a run of one step."""
    path = tmp_path_factory.mktemp("weights")
    return one_large_step(make_tiny_model(path / "tiny", hidden=32), path / "run")


def test_a_run_becomes_a_model(result, tmp_path, capsys):
    """The command takes the run, writes its best checkpoint merged, and names it."""
    out = tmp_path / "model"
    assert main(["weights", str(result.run_dir), "--out", str(out)]) == 0
    assert str(result.checkpoint) in capsys.readouterr().out
    assert AutoModelForCausalLM.from_pretrained(out).config.hidden_size == 32


def test_an_adapter_can_be_had_alone(result, tmp_path):
    """`--adapter-only` writes what a server that has the model needs."""
    out = tmp_path / "adapter"
    arguments = ["weights", str(result.checkpoint), "--out", str(out), "--adapter-only"]
    assert main(arguments) == 0
    assert (out / "adapter_model.safetensors").is_file()


def test_what_is_no_run_is_refused(tmp_path, capsys):
    """A directory that is neither a run nor a checkpoint is named, and nothing is written."""
    out = tmp_path / "out"
    assert main(["weights", str(tmp_path), "--out", str(out)]) == 1
    assert "neither a run nor a checkpoint" in capsys.readouterr().err
    assert not out.exists()
