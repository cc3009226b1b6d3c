"""The critic: what it can learn, what it leaves alone, and how it is kept."""

import json
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from transformers import LlamaForCausalLM

from agentlightning.errors import (
    CheckpointError,
    ConfigurationError,
    EmptyBatchError,
    NonFiniteLossError,
    TrainingError,
)
from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
from agentlightning.learning.critic import CriticConfig
from agentlightning.learning.losses import LossSpec
from agentlightning.learning.value_loss import ValueLossSpec
from tests.learning.tiny import VOCABULARY, batch_of, random_rows, row, tiny_llama

CRITIC = CriticConfig(lr=3e-3)
LORA = TorchConfig(lora=LoraConfig(r=4), lr=1e-2, critic=CRITIC)
FULL = TorchConfig(lr=1e-3, critic=CRITIC)
BOTH = pytest.mark.parametrize("config", [LORA, FULL])


def backend(config=FULL, **fields):
    return TorchTrainBackend(tiny_llama(**fields), config=config)


def with_returns(rows, returns, values=0.0):
    """Rows whose trained tokens are all worth the same."""
    return batch_of(
        [
            replace(
                one,
                returns=np.where(one.mask, value, 0.0).astype(np.float32),
                values=np.where(one.mask, values, 0.0).astype(np.float32),
            )
            for one, value in zip(rows, returns, strict=True)
        ]
    )


def trained(batch, streams):
    return np.concatenate([s[one.mask] for s, one in zip(streams, batch, strict=True)])


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@BOTH
def test_it_begins_by_expecting_nothing(config):
    """Before the first step every value is 0, so advantages are returns."""
    batch = batch_of(random_rows())
    for one, value in zip(batch, backend(config).values(batch), strict=True):
        assert value.tolist() == [0.0] * len(one.ids)


@BOTH
def test_it_learns_a_known_function(config):
    """Values come to tell apart prompts that are worth something from those that are not."""
    rng, critic = np.random.default_rng(0), backend(config)

    def sample(n):
        first = rng.integers(0, VOCABULARY, n)
        rest = rng.integers(0, VOCABULARY, (n, 3))
        rows = [
            row([1, f, 2, *r], [3, 4, 5], weight=1 / (3 * n))
            for f, r in zip(first, rest, strict=True)
        ]
        return with_returns(rows, np.where(first < VOCABULARY // 2, 1.0, -1.0))

    losses = [critic.step_critic(sample(24), ValueLossSpec(clip=None)) for _ in range(60)]
    fresh = sample(64)
    found = trained(fresh, critic.values(fresh))
    want = np.concatenate([one.returns[one.mask] for one in fresh])
    assert 1 - (want - found).var() / want.var() > 0.6
    assert losses[-1]["critic/vf_loss"] < 0.5 * losses[0]["critic/vf_loss"]


@BOTH
def test_the_policy_does_not_change(config):
    """A critic's step leaves the model, its adapters and its optimiser as they were."""
    each = backend(config)
    batch = with_returns(random_rows(), range(6))
    before, logps = state(each.model), each.logprobs(batch)
    metrics = each.step_critic(batch, ValueLossSpec(epochs=2))
    changed = {n for n, t in each.model.state_dict().items() if not torch.equal(t, before[n])}
    assert all(".critic." in name for name in changed)
    assert bool(changed) == (config is LORA)
    for one, other in zip(logps, each.logprobs(batch), strict=True):
        np.testing.assert_array_equal(one, other)
    assert each.optimizer.updates == 0
    assert metrics["critic/grad_norm"] > 0
    assert metrics["critic/lr"] == CRITIC.lr


@BOTH
def test_the_critic_does_not_change_with_the_policy(config):
    """A step of the policy leaves the values as they were."""
    each = backend(config)
    batch = with_returns(random_rows(), range(6))
    for _ in range(2):
        each.step_critic(batch, ValueLossSpec())
    before = each.values(batch)
    each.step(batch, LossSpec())
    for one, other in zip(before, each.values(batch), strict=True):
        np.testing.assert_array_equal(one, other)


def test_observations_have_no_value_loss():
    """Whatever returns stand on tokens that nobody trains, the step is the same."""
    clean = with_returns(random_rows(), range(6))
    spoilt = batch_of(
        [
            replace(
                one,
                returns=np.where(one.mask, one.returns, 1e6).astype(np.float32),
                values=np.where(one.mask, one.values, np.nan).astype(np.float32),
            )
            for one in clean
        ]
    )
    one, other = backend(), backend()
    for _ in range(2):
        first, second = (
            each.step_critic(batch, ValueLossSpec())
            for each, batch in ((one, clean), (other, spoilt))
        )
        assert first == second
    np.testing.assert_array_equal(*(trained(clean, each.values(clean)) for each in (one, other)))


@pytest.mark.parametrize("layout", ["tree", "rows"])
def test_packing_does_not_change_values(layout):
    """Rows packed together have the values that each has alone, in either layout."""
    each = backend(replace(FULL, layout=layout, max_slots=40))
    batch = with_returns(random_rows(), range(6))
    each.step_critic(batch, ValueLossSpec(epochs=4))
    for one, together in zip(batch, each.values(batch), strict=True):
        assert together == pytest.approx(each.values(batch_of([one]))[0], abs=1e-5)
        assert np.abs(together[one.mask]).max() > 1e-3


def test_updates_in_mini_batches_add_up():
    """Epochs times mini-batches is the number of updates; the clip shows in later ones."""
    each = backend(replace(FULL, critic=CriticConfig(lr=0.05)))
    batch = with_returns(random_rows(), [5.0] * 6)
    metrics = each.step_critic(batch, ValueLossSpec(clip=0.01, epochs=3, mini_batches=2))
    assert each.critic.optimizer.updates == 6
    assert metrics["critic/vf_clip_fraction"] > 0


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_critic_goes_on_exactly(tmp_path, config, dtype):
    """After a restore the next steps of critic and policy are the same bit for bit."""
    batch, one = with_returns(random_rows(), range(6)), backend(config, dtype=dtype)
    for _ in range(2):
        one.step_critic(batch, ValueLossSpec())
    one.step(batch, LossSpec())
    one.save(tmp_path)
    other = backend(config, dtype=dtype)
    other.restore(tmp_path)
    for each in (one, other):
        each.step_critic(batch, ValueLossSpec())
        each.step(batch, LossSpec())
    for left, right in zip(one.values(batch), other.values(batch), strict=True):
        np.testing.assert_array_equal(left, right)
    assert all(torch.equal(t, state(one.model)[n]) for n, t in state(other.model).items())


def test_a_checkpoint_without_its_critic_is_refused(tmp_path):
    """A run with a critic needs one in its checkpoint; the policy alone loads from either."""
    backend(replace(FULL, critic=None)).save(tmp_path)
    with pytest.raises(CheckpointError, match="holds no critic"):
        backend().restore(tmp_path)
    backend().save(tmp_path)
    backend(replace(FULL, critic=None)).restore(tmp_path)
    (tmp_path / "critic.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot read the critic"):
        backend().restore(tmp_path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own call
@pytest.mark.parametrize(("config", "merged"), [(LORA, True), (LORA, False), (FULL, True)])
def test_exports_hold_the_policy_alone(tmp_path, config, merged):
    """Nothing of the critic is written, and the policy is what the model computes."""
    each = backend(config)
    batch = with_returns(random_rows(), range(6))
    each.step_critic(batch, ValueLossSpec(epochs=3))
    each.step(batch, LossSpec())
    each.export(tmp_path / "out", merged=merged)
    if merged:
        loaded = LlamaForCausalLM.from_pretrained(tmp_path / "out").eval()
    else:
        assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 4
        loaded = peft.PeftModel.from_pretrained(tiny_llama(), str(tmp_path / "out"))
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, each.model(ids).logits, atol=1e-5)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not any("critic" in name for name in names)


def test_what_cannot_be_learned_from_raises():
    """No critic, no trained token, no returns, and returns that are not finite."""
    batch = with_returns(random_rows(), range(6))
    with pytest.raises(ConfigurationError, match="no critic"):
        backend(replace(FULL, critic=None)).values(batch)
    each = backend()
    with pytest.raises(EmptyBatchError):
        each.step_critic(batch_of([]), ValueLossSpec())
    with pytest.raises(TrainingError, match="needs rows with returns"):
        each.step_critic(batch_of(random_rows()), ValueLossSpec())
    with pytest.raises(NonFiniteLossError, match="critic's loss"):
        each.step_critic(with_returns(random_rows(), [float("nan")] * 6), ValueLossSpec())
    assert trained(batch, each.values(batch)).tolist() == [0.0] * batch.n_trained
    with pytest.raises(ConfigurationError, match="critic"):
        backend(replace(LORA, adapters=("default", "critic")))
    assert each.capabilities.critic
    assert backend(LORA).capabilities.adapters == ("default",)
