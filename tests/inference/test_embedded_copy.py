"""Sampling a copy of what is trained, while it is trained."""

import asyncio

import pytest
import torch

from agentlightning.engine.loading import load_model
from agentlightning.engine.sampling import SamplingParams
from agentlightning.inference.embedded_copy import EmbeddedCopy, serving_copy
from agentlightning.learning.lora import LoraConfig, inject_lora

LONG = SamplingParams(temperature=0, max_tokens=300, ignore_eos=True)
GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


def disturb(model):
    """Change what is trained, in place, as a step does."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(params=["adapters", "whole"])
def model(request, tiny_path):
    loaded = load_model(tiny_path)
    if request.param == "adapters":
        inject_lora(loaded.model, LoraConfig(r=4), ("one", "two"))
    else:
        loaded.model.requires_grad_(True)
    return loaded


@pytest.fixture
async def copying(model):
    inference = EmbeddedCopy(model.model, model.tokenizer, name="tiny", roles=None, swap="keep")
    await inference.start()
    yield inference
    await inference.stop()


def test_what_is_frozen_is_shared_and_what_is_trained_is_not(model):
    """The copy holds no second base; without adapters it is whole."""
    copied, pairs = serving_copy(model.model)
    mine = dict(copied.named_parameters())
    trained = 0
    for name, parameter in model.model.named_parameters():
        assert (mine[name].data_ptr() == parameter.data_ptr()) == (not parameter.requires_grad)
        assert torch.equal(mine[name], parameter)
        trained += parameter.requires_grad
    assert len(pairs) == trained > 0
    assert not any(parameter.requires_grad for parameter in copied.parameters())


async def test_training_is_sampled_from_the_next_publication_on(copying, model):
    """A change in place disturbs nobody until it is published, and then it is there."""
    assert not copying.shares_weights
    await copying.publish(1, None)
    before = await copying.tokens.generate([5, 6], GREEDY, adapter=adapter_of(model))
    disturb(model.model)
    still = await copying.tokens.generate([5, 6], GREEDY, adapter=adapter_of(model))
    assert (still.logprobs, still.versions) == (before.logprobs, ((0, 4, 1),))
    await copying.publish(2, None)
    after = await copying.tokens.generate([5, 6], GREEDY, adapter=adapter_of(model))
    assert after.versions == ((0, 4, 2),)
    assert after.logprobs != before.logprobs


async def test_answers_under_way_go_on_under_what_is_published(copying, model):
    """With `keep` an answer is of both versions, token by token."""
    await copying.publish(0, None)
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    answer = asyncio.create_task(
        copying.tokens.generate(
            [5, 6],
            LONG,
            adapter=adapter_of(model),
            on_token=lambda event: loop.call_soon_threadsafe(reached.set) and None,
        )
    )
    await reached.wait()
    disturb(model.model)
    await copying.publish(1, None)
    versions = (await answer).versions
    assert [version for _, _, version in versions] == [0, 1]
    assert sum(length for _, length, _ in versions) == 300


async def test_a_pause_outlives_a_publication(copying):
    """Whoever paused resumes; publishing in between does not."""
    await copying.pause()
    await copying.publish(3, None)
    assert copying.stats().paused
    await copying.resume()
    assert (copying.stats().paused, copying.version) == (False, 3)


def adapter_of(model):
    return "two" if any("lora" in name for name, _ in model.model.named_parameters()) else None
