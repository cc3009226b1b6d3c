"""What trains a run: on one device or several, started and ended with the fit."""

import multiprocessing

import pytest
import torch
from safetensors.torch import load_file

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.stored_weights import StoredWeights
from agentlightning.algorithm.policy.train_backend import make_train_backend
from agentlightning.engine.loading import load_model
from agentlightning.errors import ConfigurationError
from tests.algorithm.fits import Fits

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(result):
    return load_file(result.checkpoint / "trained.safetensors")


def close(one, two):
    """Equal to 1e-4 on average; Adam blows up rounding where a gradient is next to nothing."""
    apart = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    return one.keys() == two.keys() and apart.mean() < 1e-4


async def test_a_fit_on_two_devices_is_that_on_one(tiny_model, tmp_path, store):
    """Rewards and weights come out alike, copies or shards, and nothing is left running.

    A run may go on with another number of devices.
    """
    settings = {"steps": 2, "learning_rate": 0.01, "lora_rank": None}
    before, results, rewards = set(multiprocessing.active_children()), [], []
    for number, devices in enumerate(({}, {"devices": 2}, {"devices": 2, "shard": True})):
        fits = Fits(tiny_model, tmp_path / f"run-{number}", store)
        fits.agent.seeded = True
        results.append(await fits.fit(**devices, **settings))
        rewards.append([report.reward for report in fits.watcher.reports])
        assert set(multiprocessing.active_children()) <= before
    assert len(rewards[0]) == 2
    assert rewards[1] == pytest.approx(rewards[0], abs=1e-6)
    assert rewards[2] == pytest.approx(rewards[0], abs=1e-6)
    alone, *others = map(trained, results)
    assert all(close(alone, other) for other in others)
    found = StoredWeights.find(results[2].checkpoint)
    assert found is not None
    _, backend = found.load()
    assert close({n: t.detach() for n, t in backend.optimizer.parameters().items()}, alone)
    assert set(multiprocessing.active_children()) <= before
    more = await fits.fit(devices=1, **settings | {"steps": 3})
    assert more.steps == 3
    assert not close(trained(more), alone)


@pytest.mark.skipif(torch.cuda.device_count() >= 64, reason="needs a machine with fewer devices")
def test_more_devices_than_there_are_is_refused(tiny_model):
    """The error says how many there are."""
    model = load_model(tiny_model).model.to("meta")
    with pytest.raises(ConfigurationError, match=r"devices=64, but this machine has 1"):
        make_train_backend(GRPOConfig(model="m"), model, devices=64)
