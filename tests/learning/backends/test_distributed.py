"""Several processes train as one does. Real processes on the CPU, joined by gloo."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from agentlightning.errors import TrainingError
from agentlightning.learning.backends.distributed import DistributedTrainBackend, share_of
from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
from agentlightning.learning.losses import LossSpec
from tests.learning.tiny import batch_of, random_rows, row, tiny_llama

CONFIG = TorchConfig(lora=LoraConfig(r=4), lr=1e-2, adapters=("a", "b"))


def load(device):
    return tiny_llama().to(device)


@pytest.fixture(scope="module")
def two():
    """A backend of two processes."""
    backend = DistributedTrainBackend(load("cpu"), load=load, devices=["cpu"], config=CONFIG)
    yield backend
    backend.close()


def alone(two):
    """A single-process backend with the same weights and optimisers as `two`."""
    backend = TorchTrainBackend(load("cpu"), config=CONFIG)
    for name, optimizer in backend.optimizers.items():
        optimizer.load_parameters(two.optimizers[name].parameters())
        optimizer.load_state(copy.deepcopy(two.optimizers[name].state()))
    return backend


def weights(backend, adapter="a"):
    return [t.detach().clone() for t in backend.optimizers[adapter].parameters().values()]


def same(one, two, adapter="a"):
    """Equal to 1e-5 on average; Adam blows up rounding where a gradient is next to nothing."""
    pairs = zip(weights(one, adapter), weights(two, adapter), strict=True)
    apart = torch.cat([(mine - theirs).abs().flatten() for mine, theirs in pairs])
    return apart.mean() < 1e-5 and apart.max() < 1e-3


def known(rows):
    """Rows with log-probabilities of another policy, so that ratios are not 1."""
    rng = np.random.default_rng(1)
    return [
        replace(one, logp_rollout=(-rng.uniform(2, 4, len(one.ids))).astype(np.float32))
        for one in rows
    ]


@pytest.mark.parametrize("loss", [LossSpec(), LossSpec(anchor="trainer", epochs=2, mini_batches=2)])
def test_a_step_is_that_of_one_process(two, loss):
    """Weights and metrics after a step equal those of a single process to 1e-5."""
    one, batch = alone(two), batch_of(known(random_rows()))
    want, got = one.step(batch, loss, "a"), two.step(batch, loss, "a", version=3)
    assert same(one, two)
    for name in ("loss", "grad_norm", "ratio_mean", "ratio_p95", "ess", "kl", "entropy"):
        assert got[f"training/{name}"] == pytest.approx(want[f"training/{name}"], rel=1e-4), name
    assert got["training/n_updates"] == want["training/n_updates"]


def test_a_process_without_rows_takes_part(two):
    """One rollout, less than one for each process, is learnt from all the same."""
    one, batch = alone(two), batch_of([row([1, 2, 3, 4], [2, 3])])
    one.step(batch, LossSpec(), "b")
    two.step(batch, LossSpec(), "b")
    assert same(one, two, "b")


def test_checkpoints_are_those_of_one_process(two, tmp_path):
    """Either kind reads the other's files and goes on alike."""
    batch = batch_of(random_rows())
    two.save(tmp_path)
    one = TorchTrainBackend(load("cpu"), config=CONFIG)
    one.restore(tmp_path)
    two.step(batch, LossSpec(), "a")
    two.restore(tmp_path)
    one.step(batch, LossSpec(), "a")
    two.step(batch, LossSpec(), "a")
    assert same(one, two)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_any_process_is_told_and_nothing_is_updated(two, rank):
    """A gradient that is not finite anywhere changes no weights, and the next step works."""
    rows = known(random_rows())
    bad = share_of(batch_of(rows), rank, 2).rows[0]
    broken = [
        replace(one, adv=one.mask * np.float32(3e38), weight=one.mask * np.float32(1e3))
        if one is bad
        else one
        for one in rows
    ]
    before = weights(two)
    with pytest.raises(TrainingError, match=bad.rollout_id):
        two.step(batch_of(broken), LossSpec(), "a")
    assert all(torch.equal(a, b) for a, b in zip(before, weights(two), strict=True))
    two.step(batch_of(rows), LossSpec(), "a")


def test_shares_are_whole_rollouts_of_about_equal_size():
    """Every row is in exactly one share, rows of a rollout in the same."""
    rows = [*random_rows(groups=3, members=4), row([1, 2, 3], [1], rollout="ro-0-0", group="g-0")]
    shares = [share_of(batch_of(rows), rank, 3) for rank in range(3)]
    ids = [id(one) for share in shares for one in share.rows]
    assert sorted(ids) == sorted(map(id, rows))
    of = [{one.rollout_id for one in share.rows} for share in shares]
    assert not (of[0] & of[1] or of[1] & of[2] or of[0] & of[2])
    assert max(s.n_tokens for s in shares) < 1.6 * min(s.n_tokens for s in shares)
