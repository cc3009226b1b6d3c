"""The engine of this process as a training run's sampler."""

import asyncio

import pytest
import torch

from agentlightning.engine.loading import load_model
from agentlightning.engine.sampling import SamplingParams
from agentlightning.errors import EngineError
from agentlightning.inference.embedded import EmbeddedInference

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture
async def embedded(tiny_path):
    loaded = load_model(tiny_path)
    inference = EmbeddedInference(loaded.model, loaded.tokenizer, name="tiny")
    await inference.start()
    yield inference, loaded.model
    await inference.stop()


async def test_new_weights_are_there_without_a_copy(embedded):
    """A change in place is sampled after `publish`, with nothing written anywhere."""
    inference, model = embedded
    assert inference.shares_weights
    assert inference.processed_logprobs
    await inference.publish(4, None)
    before = await inference.tokens.generate([5, 6], GREEDY)
    await inference.pause(mode="wait")
    assert inference.stats().paused
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    await inference.publish(5, None)
    await inference.resume()
    after = await inference.tokens.generate([5, 6], GREEDY)
    assert (before.versions, after.versions) == (((0, 4, 4),), ((0, 4, 5),))
    assert before.logprobs != after.logprobs
    stats = inference.stats()
    assert (stats.version, inference.version, stats.sampled_tokens) == (5, 5, 8)
    assert (stats.running, stats.waiting, stats.paused) == (0, 0, False)


async def test_paused_it_holds_calls_back(embedded):
    """A call during a pause is sampled after it."""
    inference, _ = embedded
    await inference.pause()
    call = asyncio.create_task(inference.tokens.generate([5], GREEDY))
    while not inference.stats().waiting:
        await asyncio.sleep(0.001)
    assert not call.done()
    await inference.resume()
    assert len((await call).token_ids) == 4


async def test_stopped_it_samples_nothing(embedded):
    """Stopping twice is fine, and what comes later is told."""
    inference, _ = embedded
    assert inference.upstream.name == "engine:tiny"
    await inference.stop()
    await inference.stop()
    with pytest.raises(EngineError, match="not running"):
        await inference.tokens.generate([5])
