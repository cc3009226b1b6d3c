"""A real vLLM server as the sampler of a training run; `make vllm` runs it."""

import asyncio
import sys
from itertools import accumulate
from pathlib import Path

import httpx
import pytest
import torch
from openai import AsyncOpenAI

import agentlightning as agl
from agentlightning.adapter.calls import find_calls
from agentlightning.adapter.token_tree import build_token_rows
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.engine.loading import load_model
from agentlightning.engine.sampling import SamplingParams
from agentlightning.errors import ConfigurationError
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.inference.connect import connect_inference
from agentlightning.inference.embedded import EmbeddedInference
from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import ProxyLLM
from tests.slow.vllm_process import MODEL, RANK, ROOT, vllm_server

sys.path.insert(0, str(ROOT / "examples" / "calculator"))

from agent import calculator_agent
from tasks import train_tasks

pytestmark = pytest.mark.timeout(900)

PROMPTS = ["What is the capital of France?", "Tell me a story of a fox.", "3 plus 4 is"]
GREEDY = SamplingParams(temperature=0.0, max_tokens=24)
TOLERANCE = 2e-3
"""Of a log-probability, both sides in fp32."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with vllm_server(tmp_path_factory.mktemp("vllm") / "vllm.log") as address:
        yield address


@pytest.fixture
def loaded():
    return load_model(MODEL, dtype="float32")


@pytest.fixture
async def remote(address, loaded):
    inference = connect_inference(
        address, model=loaded.model, tokenizer=loaded.tokenizer, name="smollm2"
    )
    await inference.start()
    yield inference
    await inference.stop()


@pytest.fixture
async def embedded(loaded):
    inference = EmbeddedInference(loaded.model, loaded.tokenizer, name="smollm2")
    await inference.start()
    yield inference
    await inference.stop()


def render(tokenizer, text):
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def score(model, generation, temperature):
    """Return the log-probabilities of sampled tokens by a plain forward pass."""
    ids = torch.tensor([[*generation.prompt_ids, *generation.token_ids]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(generation.prompt_ids) - 1 : -1].float()
    table = torch.log_softmax(logits / temperature, -1)
    return table.gather(1, torch.tensor(generation.token_ids)[:, None])[:, 0].tolist()


def furthest(some, others):
    return max(abs(a - b) for a, b in zip(some, others, strict=True))


async def test_it_samples_as_the_engine_does(remote, embedded, loaded):
    """Greedy ids are the engine's, and log-probabilities are the trainer's at any temperature,
    whether streamed or not.
    """
    assert remote.processed_logprobs
    gaps = []
    for text in PROMPTS:
        ids = render(loaded.tokenizer, text)
        here = await embedded.tokens.generate(ids, GREEDY)
        there = await remote.tokens.generate(ids, GREEDY)
        assert there.token_ids == here.token_ids
        assert there.finish_reason == here.finish_reason
        gaps.append(furthest(there.logprobs, here.logprobs))
        for temperature in (1.0, 0.6):
            params = SamplingParams(temperature=temperature, max_tokens=24, top_logprobs=3)
            events = []
            drawn = await remote.tokens.generate(ids, params, on_token=events.append)
            assert tuple(event.token_id for event in events) == drawn.token_ids
            gaps.append(furthest(drawn.logprobs, score(loaded.model, drawn, temperature)))
            assert [len(top) for top in drawn.top_logprobs] == [3] * len(drawn.token_ids)
    print(f"furthest log-probabilities: {max(gaps):.1e}")
    assert max(gaps) < TOLERANCE


async def test_new_adapters_are_sampled_without_a_restart(remote, embedded, loaded):
    """A call that runs ends with the version it began with; the next one is sampled with the new
    one, as the engine samples it.
    """
    config = TorchConfig(lora=LoraConfig(r=RANK, alpha=2 * RANK))
    backend = TorchTrainBackend(loaded.model, config=config)
    await remote.publish(0, backend)
    await embedded.publish(0, backend)
    ids = render(loaded.tokenizer, PROMPTS[1])
    before = await remote.tokens.generate(ids, GREEDY)
    assert before.token_ids == (await embedded.tokens.generate(ids, GREEDY)).token_ids
    started = asyncio.Event()
    endless = SamplingParams(max_tokens=200, ignore_eos=True)
    running = asyncio.create_task(
        remote.tokens.generate(ids, endless, on_token=lambda event: started.set())
    )
    await started.wait()
    torch.manual_seed(0)
    for parameter in backend.optimizer.parameters().values():
        torch.nn.init.normal_(parameter.data, std=0.05)
    await remote.publish(1, backend)
    await embedded.publish(1, backend)
    assert not running.done()
    after = await remote.tokens.generate(ids, GREEDY)
    assert {run[2] for run in (await running).versions} == {0}
    assert after.versions == ((0, len(after.token_ids), 1),)
    assert after.token_ids != before.token_ids
    here = await embedded.tokens.generate(ids, GREEDY)
    assert after.token_ids == here.token_ids
    assert furthest(after.logprobs, here.logprobs) < TOLERANCE


async def test_a_conversation_with_a_tool_is_one_row(remote, loaded):
    """Two turns with a tool's result between them, through the gateway, for a client that trims
    what it sends back: one row, each sampled token in it once.
    """
    store = InMemoryLightningStore()
    route = ModelRoute(upstream=remote.upstream, model="smollm2")
    gateway = Gateway(store, models={"smollm2": route})
    await gateway.start()
    try:
        rollout = await store.start_rollout("sum")
        llm = ProxyLLM(endpoint=gateway.endpoint, model="smollm2")
        url = llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        messages = [{"role": "user", "content": "Name a fruit, then wait."}]
        async with AsyncOpenAI(base_url=url, api_key="-", max_retries=0) as client:
            for result in ("Result: 12", "Thanks."):
                reply = await client.chat.completions.create(
                    model="smollm2", messages=messages, max_tokens=16, seed=4
                )
                said = (reply.choices[0].message.content or "").strip()
                messages.append({"role": "assistant", "content": said})
                messages.append({"role": "user", "content": result})
        calls = find_calls(await store.query_spans(rollout.rollout_id))
    finally:
        await gateway.stop()
    rows, report = build_token_rows(calls, decode=loaded.tokenizer.decode)
    assert (len(calls), len(rows)) == (2, 1)
    assert report.trained_tokens == sum(len(call.choices[0].token_ids) for call in calls)
    assert remote.upstream.history_stats().prompts == {"first": 1, "spliced": 1}


async def test_the_cpu_build_is_refused_whole_models(remote, loaded):
    """It would go on with packed copies of the old weights; the error says what to do."""
    backend = TorchTrainBackend(loaded.model, config=TorchConfig(lora=None))
    with pytest.raises(ConfigurationError, match="lora_rank=16"):
        await remote.publish(1, backend)


def test_grpo_trains_on_it(address, tmp_path):
    """Three steps of the calculator agent, two calls a rollout: each that learns makes a
    version that the server samples from then on, and at the end the server is as it was.
    """
    algorithm = agl.GRPO(
        model=MODEL,
        inference=address,
        lora_rank=RANK,
        lora_alpha=2 * RANK,
        learning_rate=5e-4,
        group_size=4,
        batch_groups=2,
        steps=3,
        max_tokens=20,
        run_dir=str(tmp_path / "run"),
        progress=(),
    )
    trainer = agl.Trainer(algorithm=algorithm, n_runners=8, strategy="shm")
    result = trainer.fit(calculator_agent, train_tasks(8))
    lines = [line for line in result.metrics() if "training/reward" in line]
    told = ("training/reward", "training/logp_difference", "timing/sample_s", "timing/train_s")
    for line in lines:
        print({name: round(line[name], 4) for name in told if name in line})
    trained = list(accumulate(line["training/n_trained_tokens"] > 0 for line in lines))
    assert [line["training/version"] for line in lines] == trained
    assert trained[-1] > 0
    assert all(line["training/n_sampled_tokens"] > 0 for line in lines)
    assert all(line["history/prompts_spliced"] == 8 for line in lines)
    assert FitResult.load(tmp_path / "run") == result
    assert (Path(result.checkpoint) / "trained.safetensors").is_file()
    served = httpx.get(address.replace("vllm", "http") + "/v1/models").json()["data"]
    assert [card["id"] for card in served if card.get("parent")] == []
