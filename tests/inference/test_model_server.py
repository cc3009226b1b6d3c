"""A model and its adapters at an address, asked with the official clients."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import peft
import pytest
import torch
from aiohttp import ClientSession
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, NotFoundError

from agentlightning.engine.adapters import activate_adapter
from agentlightning.engine.engine import EngineConfig
from agentlightning.engine.loading import LoadedModel, load_model
from agentlightning.engine.request import Generation
from agentlightning.errors import ConfigurationError
from agentlightning.inference.model_server import ModelServer
from tests.engine.reference import reference_logprobs
from tests.support.tiny_model import make_tiny_model

HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(make_tiny_model(tmp_path_factory.mktemp("served") / "tiny", hidden=32))


@pytest.fixture
def adapted(tiny: LoadedModel) -> Any:
    model = copy.deepcopy(tiny.model)
    config = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    peft.inject_adapter_in_model(config, model, adapter_name="terse")
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter.data, std=0.2)
    return model


@pytest.fixture
async def server(tiny: LoadedModel, adapted: Any) -> AsyncIterator[ModelServer]:
    server = ModelServer(adapted, tiny.tokenizer, name="tiny")
    await server.start()
    yield server
    await server.stop()


def generation(reply: Any) -> Generation:
    choice = reply.choices[0]
    return Generation(
        prompt_ids=tuple(reply.prompt_token_ids),
        token_ids=tuple(choice.token_ids),
        logprobs=tuple(it.logprob for it in choice.logprobs.content),
        versions=(),
        finish_reason="length",
    )


@pytest.mark.parametrize(
    ("model", "adapter"), [("tiny", None), ("terse", "terse"), ("tiny:terse", "terse")]
)
async def test_a_model_name_chooses_the_adapter(
    server: ModelServer, adapted: Any, model: str, adapter: str | None
) -> None:
    """The base and an adapter, by either of its names, are each answered with their own weights."""
    async with AsyncOpenAI(base_url=server.endpoint, api_key="-") as client:
        reply = await client.chat.completions.create(
            model=model,
            messages=HI,
            max_tokens=5,
            logprobs=True,
            extra_body={"return_token_ids": True, "ignore_eos": True},
        )
    told = generation(reply)
    activate_adapter(adapted, adapter)
    assert reply.model == model
    assert list(told.logprobs) == pytest.approx(reference_logprobs(adapted, told), abs=1e-4)


async def test_names_are_listed_and_others_refused(server: ModelServer) -> None:
    """`/v1/models` tells what may be asked for; with adapters there is no guess at the rest."""
    async with AsyncOpenAI(base_url=server.endpoint, api_key="-", max_retries=0) as client:
        names = [each.id async for each in client.models.list()]
        assert names == ["tiny", "terse", "tiny:terse"]
        with pytest.raises(NotFoundError, match="'tersee' does not exist"):
            await client.chat.completions.create(model="tersee", messages=HI)


async def test_streams_completions_and_anthropics_messages_reach_adapters(
    server: ModelServer,
) -> None:
    """Every wire format of the gateway is served, whichever weights answer."""
    seeded: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    async with AsyncOpenAI(base_url=server.endpoint, api_key="-") as client:
        whole = await client.chat.completions.create(model="terse", messages=HI, **seeded)
        stream = await client.chat.completions.create(
            model="terse", messages=HI, stream=True, **seeded
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        await client.completions.create(model="terse", prompt="a", **seeded)
        answer = await client.responses.create(
            model="terse", input="hi", max_output_tokens=6, temperature=0
        )
    async with AsyncAnthropic(base_url=server.endpoint.removesuffix("/v1"), api_key="-") as claude:
        message = await claude.messages.create(
            model="terse", messages=HI, max_tokens=6, extra_body={"temperature": 0}
        )
    assert "".join(pieces) == whole.choices[0].message.content
    assert answer.output_text == whole.choices[0].message.content
    assert message.usage.output_tokens == whole.usage.completion_tokens


async def test_a_model_without_adapters_answers_to_any_name(tiny: LoadedModel) -> None:
    """Clients with a fixed model name work; `/health` says that the server is there."""
    server = ModelServer(tiny.model, tiny.tokenizer, name="tiny")
    await server.start()
    try:
        async with AsyncOpenAI(base_url=server.endpoint, api_key="-") as client:
            reply = await client.chat.completions.create(model="gpt-4o", messages=HI, max_tokens=2)
            assert reply.usage.completion_tokens == 2
        url = server.endpoint.removesuffix("/v1") + "/health"
        async with ClientSession() as session, session.get(url) as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
    finally:
        await server.stop()


async def test_what_cannot_be_served_is_refused(tiny: LoadedModel, adapted: Any) -> None:
    """A context beyond the model's, a name that is taken, a public address without a secret."""
    with pytest.raises(ConfigurationError, match="beyond the 512 tokens"):
        ModelServer(tiny.model, tiny.tokenizer, name="m", config=EngineConfig(max_context=513))
    with pytest.raises(ConfigurationError, match="of the model and of an adapter"):
        ModelServer(adapted, tiny.tokenizer, name="terse")
    with pytest.raises(ConfigurationError, match="can be reached by others"):
        ModelServer(tiny.model, tiny.tokenizer, name="m", host="0.0.0.0")


async def test_a_taken_port_leaves_no_engine_behind(tiny: LoadedModel) -> None:
    """When the address is taken, what was started is stopped again."""
    first = ModelServer(tiny.model, tiny.tokenizer, name="m")
    await first.start()
    port = int(first.endpoint.split(":")[2].split("/")[0])
    second = ModelServer(tiny.model, tiny.tokenizer, name="m", port=port)
    try:
        with pytest.raises(ConfigurationError, match=str(port)):
            await second.start()
        assert second.engine.stats().running == 0
        with pytest.raises(Exception, match="not running"):
            await asyncio.wait_for(second.engine.generate([1, 2]), 10)
    finally:
        await first.stop()
