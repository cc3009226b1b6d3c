"""The torch backend: training, saving and exporting one model in place."""

import json
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from transformers import LlamaForCausalLM

from agentlightning.errors import CheckpointError, ConfigurationError
from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
from agentlightning.learning.lora import using_adapter
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


TWO = TorchConfig(lora=LoraConfig(r=4), lr=1e-2, adapters=("router", "writer"))


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_stepping_one_adapter_changes_nothing_else():
    """A step of one adapter leaves the other, its optimiser and the base as they were."""
    trained = backend(TWO)
    batch = batch_of(random_rows())
    trained.step(batch, LossSpec(), adapter="writer")
    before, optimizer = tensors(trained.model), trained.optimizers["writer"].state()
    trained.step(batch, LossSpec(), adapter="router")
    changed = {n for n, t in tensors(trained.model).items() if not torch.equal(t, before[n])}
    assert changed
    assert all(".router." in name for name in changed)
    after = trained.optimizers["writer"].state()
    assert after["updates"] == optimizer["updates"] == 1
    assert trained.optimizers["router"].updates == 1


def test_several_adapters_learn_what_each_was_taught():
    """Opposite rewards move the same answer's probability up in one adapter, down in another."""
    trained = backend(TWO)
    for _ in range(4):
        for name, adv in (("router", 1.0), ("writer", -1.0)):
            trained.step(batch_of([row([1, 2, 3, 4], [2, 3], adv=adv)]), LossSpec(), adapter=name)
    batch = batch_of([row([1, 2, 3, 4], [2, 3])])
    base = np.nansum(backend().logprobs(batch)[0])
    router, writer = (np.nansum(trained.logprobs(batch, adapter=a)[0]) for a in TWO.adapters)
    assert writer < base < router


def test_a_checkpoint_holds_every_adapter(tmp_path):
    """After a restore each adapter goes on exactly; other names are refused."""
    batch, one = batch_of(random_rows()), backend(TWO)
    one.step(batch, LossSpec(), adapter="router")
    one.step(batch, LossSpec(), adapter="writer")
    one.save(tmp_path)
    other = backend(TWO)
    other.restore(tmp_path)
    for each in (one, other):
        each.step(batch, LossSpec(), adapter="writer")
    assert all(torch.equal(t, tensors(one.model)[n]) for n, t in tensors(other.model).items())
    with pytest.raises(CheckpointError, match="adapters"):
        backend().restore(tmp_path)
    (tmp_path / "backend.json").write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match="format 1"):
        other.restore(tmp_path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own call
@pytest.mark.parametrize("merged", [True, False])
def test_one_of_several_adapters_is_exported(tmp_path, merged):
    """The export computes what the model computes with that adapter."""
    trained = backend(TWO)
    for _ in range(2):
        trained.step(batch_of(random_rows()), LossSpec(), adapter="writer")
    trained.export(tmp_path / "out", adapter="writer", merged=merged)
    if merged:
        loaded = LlamaForCausalLM.from_pretrained(tmp_path / "out").eval()
    else:
        loaded = peft.PeftModel.from_pretrained(tiny_llama(), str(tmp_path / "out"))
    router = logits(trained.model)
    with using_adapter(trained.model, "writer"):
        assert torch.allclose(logits(loaded), logits(trained.model), atol=1e-5)
    assert not torch.allclose(logits(loaded), router, atol=1e-3)


def test_adapters_that_are_not_there_are_named():
    """Unknown adapters, and several parts of a model trained whole, raise."""
    with pytest.raises(ConfigurationError, match=r"'poet'.*router, writer"):
        backend(TWO).step(batch_of(random_rows()), LossSpec(), adapter="poet")
    with pytest.raises(ConfigurationError, match="LoRA"):
        backend(TorchConfig(adapters=("router", "writer")))


@pytest.mark.parametrize(
    "config", [TorchConfig(lora=LoraConfig(r=4), lr=1e-2), TorchConfig(lr=1e-3)]
)
def test_the_reference_is_the_model_before_training(config):
    """It stays what it was, whatever was learnt: the base of adapters, or a copy that is loaded."""
    backend = TorchTrainBackend(tiny_llama(), config=config, load_reference=tiny_llama)
    batch = batch_of(random_rows())
    before = backend.logprobs(batch)
    for _ in range(2):
        backend.step(batch, LossSpec())
    reference, now = backend.reference_logprobs(batch), backend.logprobs(batch)
    for one, same, other in zip(before, reference, now, strict=True):
        np.testing.assert_allclose(one, same, atol=1e-5)
        assert np.nanmax(np.abs(other - one)) > 1e-3


def test_a_whole_model_without_a_reference():
    """It can be trained, but not be compared with what it was."""
    batch, backend = batch_of(random_rows()), TorchTrainBackend(tiny_llama())
    assert not backend.capabilities.reference
    with pytest.raises(ConfigurationError, match="load_reference"):
        backend.reference_logprobs(batch)
    with pytest.raises(ConfigurationError, match="load_reference"):
        backend.step(batch, LossSpec(kl_coef=0.1))


def test_a_kl_penalty_pulls_a_whole_model_back():
    """Without a reward it comes back to the reference that it had left."""
    backend = TorchTrainBackend(
        tiny_llama(), config=TorchConfig(lr=1e-3), load_reference=tiny_llama
    )
    batch = batch_of(random_rows())
    for _ in range(4):
        backend.step(batch, LossSpec())
    still = batch_of([replace(row, adv=row.adv * 0) for row in batch.rows])
    loss = LossSpec(kl_coef=1.0, kl_kind="k2", kl_unbiased=False)
    kls = [backend.step(still, loss)["training/kl_reference"] for _ in range(12)]
    assert 0 <= kls[-1] < 0.5 * kls[0]
