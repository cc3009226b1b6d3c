"""The torch backend: training, saving and exporting one model in place."""

import json

import numpy as np
import peft
import pytest
import torch
from transformers import LlamaForCausalLM

from agentlightning.errors import CheckpointError
from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
from agentlightning.learning.losses import LossSpec
from tests.learning.tiny import batch_of, plain_logp, random_rows, row, tiny_llama

LORA = TorchConfig(lora=LoraConfig(r=4), lr=1e-2)
FULL = TorchConfig(lr=1e-3)
IDS = torch.arange(1, 9)[None]


def backend(config=LORA, **fields):
    return TorchTrainBackend(tiny_llama(**fields), config=config)


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("config", [LORA, FULL])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_raises_the_reward_in_place(config, dtype):
    """Steps raise the score of rewarded answers on the module that was given."""
    trained = backend(config, dtype=dtype)
    model = trained.model
    batch = batch_of([row([1, 2, 3, 4], [2, 3], adv=1.0), row([1, 2, 8, 9], [2, 3], adv=-1.0)])
    before = [np.nansum(s) for s in trained.logprobs(batch)]
    for _ in range(5):
        metrics = trained.step(batch, LossSpec())
    after = [np.nansum(s) for s in trained.logprobs(batch)]
    assert trained.model is model
    assert type(model) is LlamaForCausalLM
    assert after[0] > before[0] + 0.1
    assert after[1] < before[1]
    assert metrics["training/lr"] == config.lr


def test_logprobs_are_those_of_the_model():
    """`logprobs` gives the plain forward's values on trained tokens, NaN elsewhere."""
    trained, rows = backend(), random_rows()
    for one, stream in zip(rows, trained.logprobs(batch_of(rows)), strict=True):
        with torch.no_grad():
            want = plain_logp(trained.model, one)
        assert stream[one.mask] == pytest.approx(want.numpy(), abs=1e-5)
        assert np.isnan(stream[~one.mask]).all()


@pytest.mark.parametrize("config", [LORA, FULL])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_run_goes_on_exactly(tmp_path, config, dtype):
    """After a restore the next step gives the same weights as without interruption."""
    batch, one = batch_of(random_rows()), backend(config, dtype=dtype)
    for _ in range(2):
        one.step(batch, LossSpec())
    one.save(tmp_path)
    one.step(batch, LossSpec())
    other = backend(config, dtype=dtype)
    other.restore(tmp_path)
    other.step(batch, LossSpec())
    assert torch.equal(logits(one.model), logits(other.model))


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    """Another adapter shape, another kind of training, or missing files raise."""
    backend().save(tmp_path)
    with pytest.raises(CheckpointError, match="adapters"):
        backend(TorchConfig(lora=LoraConfig(r=2))).restore(tmp_path)
    with pytest.raises(CheckpointError, match="adapters"):
        backend(FULL).restore(tmp_path)
    (tmp_path / "trained.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot read"):
        backend().restore(tmp_path)
    with pytest.raises(CheckpointError, match="cannot read"):
        backend().restore(tmp_path / "none")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own call
def test_the_adapter_export_loads_with_peft(tmp_path):
    """peft reads the export back and computes the same logits."""
    trained = backend()
    trained.step(batch_of(random_rows()), LossSpec())
    trained.export(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
    loaded = peft.PeftModel.from_pretrained(tiny_llama(), str(tmp_path / "adapter"))
    assert torch.allclose(logits(loaded), logits(trained.model), atol=1e-5)
    assert not torch.allclose(logits(tiny_llama()), logits(trained.model), atol=1e-3)


@pytest.mark.parametrize("config", [LORA, FULL])
@pytest.mark.parametrize("tie", [True, False])
def test_the_merged_export_is_a_plain_model(tmp_path, config, tie):
    """The merged directory loads without peft and computes the same logits."""
    trained = backend(config, tie=tie)
    trained.step(batch_of(random_rows()), LossSpec())
    trained.export(tmp_path / "model", merged=True)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert torch.allclose(logits(loaded), logits(trained.model), atol=1e-5)


def test_capabilities_tell_what_can_be_asked():
    """Adapters bring a reference; a chosen layout says whether prefixes are shared."""
    assert backend().capabilities.reference
    assert backend().capabilities.prefix_packing
    plain = backend(TorchConfig(layout="rows", lr=1e-3)).capabilities
    assert not plain.prefix_packing
    assert not plain.reference
    assert "ppo_clip" in plain.losses


def test_warm_up_raises_the_learning_rate_linearly():
    """The rate of update n of a warm-up of w is n / w of the full one."""
    trained = backend(TorchConfig(lora=LoraConfig(), lr=1e-2, warmup_steps=4))
    batch = batch_of(random_rows())
    rates = [trained.optimizer.lr]
    for _ in range(4):
        trained.step(batch, LossSpec())
        rates.append(trained.optimizer.lr)
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
