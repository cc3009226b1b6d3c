"""Weights of a real, small run, written for others and loaded by them."""

import json
import shutil

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentlightning.algorithm.policy.result import FitResult
from agentlightning.algorithm.policy.stored_weights import StoredWeights
from agentlightning.errors import CheckpointError, ConfigurationError
from tests.algorithm.fits import one_large_step
from tests.support.tiny_model import make_tiny_model

PROMPT = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("weights") / "tiny", hidden=32)


@pytest.fixture(scope="module")
def result(model) -> FitResult:
    """The result of a run with adapters."""
    return one_large_step(model, model.parent / "run")


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model(PROMPT).logits.float()


def trained_logits(result) -> torch.Tensor:
    found = StoredWeights.find(result.checkpoint)
    assert found is not None
    return logits_of(found.load()[0].model)


def test_a_merged_export_is_the_trained_model(result, model, tmp_path):
    """transformers loads the directory, and it computes what the policy computes."""
    path = result.export(tmp_path / "model")
    exported = AutoModelForCausalLM.from_pretrained(path)
    assert torch.allclose(logits_of(exported), trained_logits(result), atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(model)
    assert not torch.allclose(logits_of(exported), logits_of(base), atol=1e-4)
    assert AutoTokenizer.from_pretrained(path).chat_template
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft
def test_an_exported_adapter_fits_its_model(result, model, tmp_path):
    """peft loads it onto the base, and the two compute what the policy computes."""
    path = result.export(tmp_path / "adapter", merged=False)
    base = AutoModelForCausalLM.from_pretrained(model)
    together = peft.PeftModel.from_pretrained(base, str(path))
    assert torch.allclose(logits_of(together), trained_logits(result), atol=1e-4)


def test_a_run_without_adapters_is_exported_whole(model, tmp_path):
    """Full fine-tuning has a model to export and no adapter."""
    result = one_large_step(model, tmp_path / "run", lora_rank=None)
    with pytest.raises(ConfigurationError, match="no adapter"):
        result.export(tmp_path / "adapter", merged=False)
    exported = AutoModelForCausalLM.from_pretrained(result.export(tmp_path / "model"))
    assert torch.allclose(logits_of(exported), trained_logits(result), atol=1e-5)


def test_nothing_is_written_over(result, tmp_path):
    """A directory with something in it is left alone."""
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ConfigurationError, match="not empty"):
        result.export(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["note"]


def test_what_is_no_run_is_told(tmp_path):
    """A path that means no checkpoint, a run without one, and a damaged one each say so."""
    assert StoredWeights.find(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"config": {"model": "m"}}))
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        StoredWeights.find(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint whose weights"):
        FitResult(run_dir=tmp_path).export(tmp_path / "out")


def test_a_damaged_checkpoint_is_refused(result, tmp_path):
    """A file that is not what was written is named; nothing is exported."""
    run = tmp_path / "run"
    shutil.copytree(result.run_dir, run)
    damaged = run / "checkpoints" / result.checkpoint.name / "trained.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=r"trained.safetensors"):
        StoredWeights.find(damaged.parent)
