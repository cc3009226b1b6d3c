"""Processes that hold a shard each train as one does that holds it all. Real ones, on the CPU."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agentlightning.errors import ConfigurationError, NonFiniteLossError
from agentlightning.learning.backends.sharded import ShardedTrainBackend
from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
from agentlightning.learning.losses import LossSpec
from tests.learning.backends.test_distributed import known
from tests.learning.tiny import batch_of, random_rows, row, tiny_llama

WHOLE = TorchConfig(lr=1e-2)
ADAPTERS = TorchConfig(lora=LoraConfig(r=4), lr=1e-2, adapters=("a", "b"))
RECOMPUTING = replace(WHOLE, activation_bytes=1, max_slots=16)


def load(device):
    return tiny_llama(tie=True).to(device)


def load_half(device):
    return tiny_llama(dtype=torch.bfloat16).to(device)


@pytest.fixture(scope="module", params=[WHOLE, ADAPTERS], ids=["whole", "adapters"])
def two(request):
    """A backend of two processes with a shard each, and one beside it that trained alike."""
    torch.manual_seed(1)
    backend = ShardedTrainBackend(
        load("cpu"),
        load=load,
        devices=["cpu", "cpu"],
        config=request.param,
        load_reference=partial(load, "cpu"),
    )
    yield backend
    backend.close()


def alone(two, path):
    """A single-process backend that goes on from where `two` is."""
    one = TorchTrainBackend(load("cpu"), config=two.config, load_reference=partial(load, "cpu"))
    path.mkdir()
    two.save(path)
    one.restore(path)
    return one


def weights(backend):
    found = dict(backend.model.named_parameters())
    return torch.cat([found[n].detach().float().flatten() for n in sorted(found)])


def same(one, two):
    """Equal to 1e-5 on average; Adam blows up rounding where a gradient is next to nothing."""
    apart = (weights(one) - weights(two)).abs()
    return apart.mean() < 1e-5 and apart.max() < 1e-3


def test_two_steps_are_those_of_one_process(two, tmp_path):
    """Weights and metrics equal those of a single process, with checkpoints either way."""
    one, batch = alone(two, tmp_path / "a"), batch_of(known(random_rows()))
    name, before = two.config.adapters[0], weights(two)
    loss = LossSpec(anchor="trainer", epochs=2, mini_batches=2, kl_coef=0.1)
    for spec in (LossSpec(), loss):
        want, got = one.step(batch, spec, name), two.step(batch, spec, name, version=3)
        for metric in ("loss", "grad_norm", "ratio_mean", "ess", "kl", "entropy", "lr"):
            key = f"training/{metric}"
            assert got[key] == pytest.approx(want[key], rel=1e-4), metric
        assert got["training/n_updates"] == want["training/n_updates"]
    assert got["training/kl_reference"] == pytest.approx(want["training/kl_reference"], rel=1e-3)
    assert got["training/kl_reference"] > 0
    assert same(one, two)
    assert (before - weights(two)).abs().max() > 1e-3
    again = alone(two, tmp_path / "b")
    assert same(again, two)
    moments, others = again.optimizer.state()["adamw"], one.optimizer.state()["adamw"]
    for number, state in moments["state"].items():
        for key, tensor in state.items():
            assert torch.allclose(tensor, others["state"][number][key], atol=1e-4), key
    two.step(batch, LossSpec(), name)
    assert not same(again, two)
    two.restore(tmp_path / "b")
    assert same(again, two)
    again.step(batch, LossSpec(), name)
    two.step(batch, LossSpec(), name)
    assert same(again, two)


def test_a_process_without_rows_takes_part(two, tmp_path):
    """One rollout in several packs, less than one for each process, is learnt from all the same."""
    one, name = alone(two, tmp_path / "a"), two.config.adapters[-1]
    batch = batch_of([row([1, 2, 3, 4], [2, 3])])
    one.step(batch, LossSpec(), name)
    two.step(batch, LossSpec(), name)
    assert same(one, two)


def test_a_bad_number_in_one_process_is_told_and_nothing_is_updated(two):
    """The error names the rollout, no weights change, and the next step works."""
    rows, name = known(random_rows()), two.config.adapters[0]
    bad = replace(rows[-1], adv=rows[-1].mask * np.float32(3e38))
    bad = replace(bad, weight=bad.mask * np.float32(1e3))
    before = weights(two)
    with pytest.raises(NonFiniteLossError, match=bad.rollout_id):
        two.step(batch_of([*rows[:-1], bad]), LossSpec(), name)
    assert torch.equal(before, weights(two))
    two.step(batch_of(rows), LossSpec(), name)
    assert not torch.equal(before, weights(two))


def test_half_precision_keeps_exact_weights_in_the_shards(tmp_path):
    """A checkpoint of a bf16 model holds what bf16 cannot; passes may be small and computed twice."""
    half = ShardedTrainBackend(
        load_half("cpu"),
        load=load_half,
        devices=["cpu", "cpu"],
        config=replace(RECOMPUTING, lr=1e-5),
    )
    try:
        half.step(batch_of(random_rows()), LossSpec())
        half.save(tmp_path)
    finally:
        half.close()
    stored = load_file(tmp_path / "trained.safetensors")
    apart = {n: (stored[n] - p.detach().float()).abs() for n, p in half.model.named_parameters()}
    assert all(tensor.dtype == torch.float32 for tensor in stored.values())
    assert max(float(a.max()) for a in apart.values()) > 1e-6
    assert all(torch.equal(stored[n].bfloat16(), p) for n, p in half.model.named_parameters())


def test_one_device_is_not_enough():
    """There is nothing to share out."""
    with pytest.raises(ConfigurationError, match="two devices"):
        ShardedTrainBackend(load("cpu"), load=load, devices=["cpu"], config=WHOLE)
