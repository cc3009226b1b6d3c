"""0.3.0's proxy: its constructor, resources and URL scheme, in front of a scripted server."""

import pickle
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from agentlightning.errors import ConfigurationError, GatewayError
from agentlightning.gateway.budget import CallBudget
from agentlightning.llm_proxy import LLMProxy, ModelConfig
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import AttemptedRollout
from agentlightning.types.call import CallRecord
from agentlightning.types.resources import LLM, ProxyLLM
from agentlightning.utils.server_launcher import PythonServerLauncherArgs
from tests.support.model_server import Answer, ModelServer


def entry(server: ModelServer, name: str = "m", provider: str = "hosted_vllm") -> ModelConfig:
    params = {"model": f"{provider}/org/real", "api_base": server.endpoint, "api_key": "up"}
    return {"model_name": name, "litellm_params": params}


def here(**options: Any) -> LLMProxy:
    """Return a proxy in a thread of this process, for stores that live in it."""
    return LLMProxy(launch_mode="thread", **options)


async def ask(llm: LLM, text: str = "hi", **options: Any) -> str:
    async with AsyncOpenAI(base_url=llm.get_base_url(), api_key=llm.api_key or "none") as client:
        answer = await client.chat.completions.create(
            model=llm.model, messages=[{"role": "user", "content": text}], **options
        )
    return answer.choices[0].message.content or ""


async def records(store: InMemoryLightningStore, rollout: AttemptedRollout) -> list[CallRecord]:
    found = [CallRecord.from_span(span) for span in await store.query_spans(rollout.rollout_id)]
    return [record for record in found if record]


async def test_calls_of_an_attempt_are_recorded_with_ids() -> None:
    """A vLLM entry is asked for ids and log-probabilities, under its own name and key."""
    store = InMemoryLightningStore()
    rollout = await store.start_rollout(input=1)
    with ModelServer() as server:
        proxy = here(model_list=[entry(server)], store=store)
        await proxy.start()
        llm = proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id)
        assert await ask(llm) == "hello"
        await proxy.stop()
    (record,) = await records(store, rollout)
    assert record.choices[0].token_ids == server.calls[0].token_ids[0]
    assert record.choices[0].logprobs == server.calls[0].logprobs[0]
    assert server.calls[0].request["model"] == "org/real"
    assert server.calls[0].headers["authorization"] == "Bearer up"
    await store.close()


async def test_prices_of_the_model_list_count_on_the_budget() -> None:
    """LiteLLM's prices of one token are read; the call after the one that used up the money fails."""
    store = InMemoryLightningStore()
    rollout = await store.start_rollout(input=1)
    prices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    with ModelServer() as server:
        model: ModelConfig = {**entry(server), "model_info": prices}
        proxy = here(model_list=[model], store=store, budget=CallBudget(cost=1e-6))
        await proxy.start()
        llm = proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id)
        assert await ask(llm) == "hello"
        with pytest.raises(BadRequestError, match="1e-06 in cost"):
            await ask(llm)
        await proxy.stop()
        assert "input_cost_per_token" not in server.calls[0].request
        half: ModelConfig = {**entry(server), "model_info": {"input_cost_per_token": 1e-6}}
        with pytest.raises(ConfigurationError, match="half a price"):
            here(model_list=[half], store=store).initialize()
        with pytest.raises(ConfigurationError, match="different prices"):
            here(model_list=[model, entry(server)], store=store).initialize()
    await store.close()


async def test_resources_carry_endpoint_model_and_sampling() -> None:
    """Without ids a resource is a `ProxyLLM`, with both an `LLM` for the attempt."""
    with ModelServer() as server:
        proxy = here(model_list=[entry(server)], store=InMemoryLightningStore())
        await proxy.start()
        llm = proxy.as_resource(sampling_parameters={"temperature": 0.5})
        assert isinstance(llm, ProxyLLM)
        assert llm.model_dump() == {
            "resource_type": "proxy_llm",
            "endpoint": proxy.gateway.endpoint,
            "model": "m",
            "api_key": None,
            "sampling_parameters": {"temperature": 0.5},
        }
        baked = proxy.as_resource("ro-1", "at-1", model="other")
        assert type(baked) is LLM
        assert baked.endpoint == f"{proxy.gateway.url}/rollout/ro-1/attempt/at-1/v1"
        assert baked.model == "other"
        with pytest.raises(ValueError, match="both"):
            proxy.as_resource("ro-1")
        proxy.update_model_list([entry(server), entry(server, "n")])
        with pytest.raises(ValueError, match="which model"):
            proxy.as_resource()
        await proxy.stop()


async def test_model_list_changes_without_restart() -> None:
    """A new model list serves the next call; a wrong one leaves the old in place."""
    with ModelServer() as server, ModelServer(Answer(text="new")) as other:
        proxy = here(model_list=[entry(server)], store=InMemoryLightningStore())
        await proxy.start()
        assert await ask(proxy.as_resource()) == "hello"
        proxy.update_model_list([entry(other)])
        assert await ask(proxy.as_resource()) == "new"
        wrong: ModelConfig = {"model_name": "m", "litellm_params": {"model": "bedrock/x"}}
        with pytest.raises(ConfigurationError, match="LiteLLM"):
            proxy.update_model_list([wrong])
        assert await ask(proxy.as_resource()) == "new"
        await proxy.stop()


async def test_entries_of_one_name_share_its_calls() -> None:
    """Two servers of one name are called in turns."""
    with ModelServer() as one, ModelServer() as two:
        proxy = here(model_list=[entry(one), entry(two)], store=InMemoryLightningStore())
        await proxy.start()
        for _ in range(6):
            await ask(proxy.as_resource())
        await proxy.stop()
    assert (len(one.calls), len(two.calls)) == (3, 3)


async def test_failed_calls_are_made_again_but_recorded_once() -> None:
    """With retries a server's failure is hidden, and the call has one record."""
    store = InMemoryLightningStore()
    rollout = await store.start_rollout(input=1)
    script = [Answer(status=503), Answer(status=429, headers={"retry-after": "0"}), Answer()]
    with ModelServer(lambda _: script.pop(0)) as server:
        config = {"litellm_settings": {"num_retries": 2}}
        proxy = here(model_list=[entry(server)], store=store, litellm_config=config)
        await proxy.start()
        llm = proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id)
        assert await ask(llm) == "hello"
        await proxy.stop()
    assert len(server.calls) == 3
    (record,) = await records(store, rollout)
    assert record.outcome == "ok"


async def test_store_restart_and_state() -> None:
    """A proxy starts only with a store, records in the one set last, and restarts elsewhere."""
    first, second = InMemoryLightningStore(), InMemoryLightningStore()
    rollout = await second.start_rollout(input=1)
    with ModelServer() as server:
        proxy = here(model_list=[entry(server)])
        with pytest.raises(ValueError, match="store"):
            await proxy.start()
        with pytest.raises(GatewayError, match="start"):
            proxy.as_resource()
        assert proxy.get_store() is None
        proxy.set_store(first)
        assert not proxy.is_running()
        await proxy.start()
        await proxy.start()
        assert proxy.is_running()
        proxy.set_store(second)
        assert proxy.get_store() is second
        await proxy.restart(_port=0)
        await ask(proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id))
        await proxy.stop()
        await proxy.stop()
        assert not proxy.is_running()
    assert len(await records(second, rollout)) == 1
    await first.close()
    await second.close()


@pytest.mark.parametrize(
    ("provider", "callbacks", "asked"),
    [
        ("hosted_vllm", None, {"return_token_ids", "logprobs"}),
        ("openai", None, set()),
        (
            "openai",
            ["return_token_ids", "logprobs", "opentelemetry"],
            {"return_token_ids", "logprobs"},
        ),
        ("hosted_vllm", ["opentelemetry"], {"logprobs"}),
    ],
)
async def test_callbacks_say_what_servers_are_asked_for(
    provider: str, callbacks: Sequence[str] | None, asked: set[str]
) -> None:
    """Servers that may not know our parameters get them only when told."""
    store = InMemoryLightningStore()
    rollout = await store.start_rollout(input=1)
    with ModelServer() as server:
        proxy = here(
            model_list=[entry(server, provider=provider)], store=store, callbacks=callbacks
        )
        await proxy.start()
        await ask(proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id))
        await proxy.stop()
    assert set(server.calls[0].request) == {"model", "messages"} | asked
    await store.close()


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = "seen"
        return response


async def test_starlette_middlewares_still_work() -> None:
    """A user's middleware class wraps the proxy; 0.3.0's names are accepted beside it."""
    with ModelServer() as server:
        proxy = here(
            model_list=[entry(server)],
            store=InMemoryLightningStore(),
            middlewares=["rollout_attempt", "stream_conversion", Stamp],
        )
        await proxy.start()
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{proxy.gateway.endpoint}/models")
        assert answer.headers["x-stamp"] == "seen"
        assert await ask(proxy.as_resource()) == "hello"
        await proxy.stop()


async def test_a_secret_travels_in_the_resource() -> None:
    """Agents that use the resource's key are let in."""
    with ModelServer() as server:
        proxy = here(model_list=[entry(server)], store=InMemoryLightningStore(), secret="s")
        await proxy.start()
        assert await ask(proxy.as_resource()) == "hello"
        await proxy.stop()
    assert server.calls[0].headers["authorization"] == "Bearer up"


def test_arguments_that_cannot_work_are_refused() -> None:
    """Mistakes are told at once, with what to do instead."""
    with pytest.raises(ValueError, match="launcher_args"):
        LLMProxy(port=1, launcher_args=PythonServerLauncherArgs(port=2))
    with pytest.raises(ConfigurationError, match="middlewares"):
        LLMProxy(middlewares=["unknown"])
    with pytest.raises(ConfigurationError, match="LiteLLM"):
        LLMProxy(callbacks=[dict])
    base = {"api_base": "http://h/v1"}
    for params, message in [
        ({"api_base": "http://h"}, "incomplete"),
        ({"model": "azure/x", **base}, "LiteLLM"),
        ({"model": "hosted_vllm/x"}, "api_base"),
        ({"model": "hosted_vllm/x", "api_base": "h:80"}, "URL"),
        ({"model": "openai/x", **base, "api_key": "os.environ/AGL_NO_SUCH_KEY"}, "AGL_NO_SUCH_KEY"),
    ]:
        wrong: ModelConfig = {"model_name": "m", "litellm_params": params}
        with pytest.raises(ConfigurationError, match=message):
            LLMProxy(model_list=[wrong]).initialize()


def test_an_unstarted_proxy_can_be_pickled() -> None:
    """A proxy travels to another process before it is started."""
    config: ModelConfig = {
        "model_name": "m",
        "litellm_params": {"model": "hosted_vllm/x", "api_base": "http://h/v1"},
    }
    copy = pickle.loads(pickle.dumps(LLMProxy(port=0, model_list=[config])))
    assert copy.model_list == [config]
