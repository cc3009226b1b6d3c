"""Loading models."""

import json
from pathlib import Path

import pytest
import torch

from agentlightning.engine.loading import LoadedModel, load_model
from agentlightning.errors import ConfigurationError
from agentlightning.settings import Settings


def test_a_directory_is_loaded_for_sampling(tiny: LoadedModel, tiny_path: Path) -> None:
    """A small model comes in fp32, in evaluation mode, named after its directory."""
    assert tiny.model.dtype == torch.float32
    assert not tiny.model.training
    assert (tiny.name, tiny.path) == (tiny_path.name, str(tiny_path))
    assert tiny.tokenizer.chat_template


def test_a_number_format_can_be_asked_for(tiny_path: Path) -> None:
    """An explicit dtype wins over the automatic one."""
    assert load_model(tiny_path, dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize("source", ["no-such-model", "./nowhere", "a/b/c", ""])
def test_an_unknown_source_names_the_choices(source: str) -> None:
    """A source that is nothing we know is refused with the catalog in the message."""
    with pytest.raises(ConfigurationError):
        load_model(source if source else Path("/nonexistent"))


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    """Missing, broken and adapter-only configurations are told apart."""
    with pytest.raises(ConfigurationError, match=r"no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigurationError, match="not JSON"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ConfigurationError, match="adapter"):
        load_model(tmp_path)


def test_an_unknown_dtype_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """The message lists the formats."""
    with pytest.raises(ConfigurationError, match="bfloat16"):
        load_model("smollm2-135m-instruct", dtype="int3", settings=_offline(tmp_path))


def test_a_device_that_is_not_there_is_refused_with_those_that_are(tiny_path: Path) -> None:
    """An unknown device names what this machine has."""
    with pytest.raises(ConfigurationError, match=r"'tpu:0'.*cpu"):
        load_model(tiny_path, device="tpu:0")
    assert load_model(tiny_path, device="cpu").model.device.type == "cpu"


def _offline(cache: Path) -> Settings:
    return Settings(cache_dir=cache, runs_dir=cache, offline=True)
