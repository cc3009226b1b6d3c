"""The proxy's launch modes: the same behaviour in processes, a thread and a loop."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from anthropic import AsyncAnthropic

from agentlightning.errors import ConfigurationError, GatewayError
from agentlightning.gateway.launch import LaunchMode
from agentlightning.llm_proxy import (
    LLMProxy,
    ModelConfig,
    get_active_llm_proxy,
    set_active_llm_proxy,
)
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types.call import CallRecord
from agentlightning.utils.server_launcher import PythonServerLauncherArgs
from tests.gateway.proxy_process import Stamp
from tests.support.model_server import Answer, ModelServer
from tests.test_llm_proxy import ask, entry


@asynccontextmanager
async def store_server() -> AsyncGenerator[LightningStoreServer]:
    store = LightningStoreServer(InMemoryLightningStore(thread_safe=True), port=0)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


@pytest.mark.parametrize("mode", ["mp", "thread", "asyncio"])
async def test_every_mode_serves_records_and_seals(mode: LaunchMode) -> None:
    """Calls, models, middlewares and restarts work alike, wherever the gateway runs."""
    async with store_server() as store:
        rollout = await store.start_rollout(input=1)
        ids = rollout.rollout_id, rollout.attempt.attempt_id
        with ModelServer() as server, ModelServer(Answer(text="new")) as other:
            proxy = LLMProxy(
                model_list=[entry(server)],
                store=store,
                launch_mode=mode,
                middlewares=["rollout_attempt", Stamp],
            )
            await proxy.start()
            llm = proxy.as_resource(*ids)
            assert await ask(llm) == "hello"
            proxy.update_model_list([entry(other)])
            assert await ask(llm) == "new"
            async with httpx.AsyncClient() as client:
                health = await client.get(f"{proxy.gateway.url}/health")
                sealed = await client.post(llm.endpoint.removesuffix("/v1") + "/seal")
            assert (health.status_code, health.headers["x-stamp"]) == (200, "seen")
            assert sealed.json()["calls"]["finished"] == 2
            await proxy.restart()
            assert proxy.as_resource(*ids) == llm
            assert await ask(llm) == "new"
            await proxy.stop()
            assert not proxy.is_running()
        records = [CallRecord.from_span(span) for span in await store.query_spans(ids[0])]
    assert [record.outcome for record in records if record] == ["ok"] * 3


async def test_processes_are_the_default_and_need_a_store_that_travels() -> None:
    """As in 0.3.0, a store of this process alone is a RuntimeError that says what to do."""
    with ModelServer() as server:
        proxy = LLMProxy(model_list=[entry(server)], store=InMemoryLightningStore())
        with pytest.raises(RuntimeError, match="launch_mode='thread'"):
            await proxy.start()
        assert not proxy.is_running()
        with pytest.raises(GatewayError, match="start"):
            proxy.as_resource()


async def test_another_store_takes_over_while_it_runs() -> None:
    """Processes record in the store that was set last; one that cannot travel is refused."""
    async with store_server() as first, store_server() as second:
        with ModelServer() as server:
            proxy = LLMProxy(model_list=[entry(server)], store=first)
            await proxy.start()
            proxy.set_store(second)
            rollout = await second.start_rollout(input=1)
            await ask(proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id))
            with pytest.raises(RuntimeError, match="zero_copy"):
                proxy.set_store(InMemoryLightningStore())
            assert proxy.get_store() is second
            await proxy.stop()
        assert len(await second.query_spans(rollout.rollout_id)) == 1


async def test_a_killed_proxy_starts_again_at_its_address() -> None:
    """A proxy whose process died is not running; starting it again brings the address back."""
    async with store_server() as store:
        with ModelServer() as server:
            proxy = LLMProxy(model_list=[entry(server)], store=store)
            await proxy.start()
            llm = proxy.as_resource()
            gateway: Any = proxy.gateway
            os.kill(gateway.pids[0], signal.SIGKILL)
            while proxy.is_running():
                await asyncio.sleep(0.02)
            await proxy.start()
            assert proxy.as_resource() == llm
            assert await ask(llm) == "hello"
            await proxy.stop()


async def test_the_proxy_started_last_is_the_active_one() -> None:
    """0.3.0's look-up finds it until it is stopped; other proxies go on all the same."""
    store = InMemoryLightningStore()
    with pytest.raises(ConfigurationError, match="active"):
        get_active_llm_proxy()
    with ModelServer() as server:
        first, second = (
            LLMProxy(model_list=[entry(server)], store=store, launch_mode="thread")
            for _ in range(2)
        )
        await first.start()
        await second.start()
        assert get_active_llm_proxy() is second
        assert await ask(first.as_resource()) == "hello"
        set_active_llm_proxy(first)
        assert get_active_llm_proxy() is first
        await first.stop()
        await second.stop()
    with pytest.raises(ValueError, match="active"):
        get_active_llm_proxy()


async def test_agents_elsewhere_get_the_address_to_reach_it_by() -> None:
    """Resources carry the access host, not the one that is listened on."""
    args = PythonServerLauncherArgs(host="127.0.0.1", access_host="proxy.example")
    with ModelServer() as server:
        proxy = LLMProxy(
            model_list=[entry(server)], store=InMemoryLightningStore(), launcher_args=args
        )
        await proxy.start()
        port = proxy.gateway.url.rpartition(":")[2]
        assert proxy.as_resource().endpoint == f"http://proxy.example:{port}/v1"
        await proxy.stop()


@pytest.mark.parametrize(
    ("provider", "asked"),
    [
        ("sglang", {"return_token_ids", "logprobs"}),
        ("llamafile", {"logprobs"}),
        ("ollama", {"logprobs"}),
        ("ollama_chat", {"logprobs"}),
        ("tgi", {"logprobs"}),
        ("huggingface", {"logprobs"}),
        ("openai", set()),
        ("openai_like", set()),
    ],
)
async def test_servers_are_called_directly_and_asked_for_what_they_know(
    provider: str, asked: set[str]
) -> None:
    """A provider's name says what kind of server it is; an address without /v1 will do."""
    store = InMemoryLightningStore()
    rollout = await store.start_rollout(input=1)
    with ModelServer() as server:
        params = {"model": f"{provider}/org/real", "api_base": server.url}
        model: ModelConfig = {"model_name": "m", "litellm_params": params}
        proxy = LLMProxy(model_list=[model], store=store, launch_mode="thread")
        await proxy.start()
        await ask(proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id))
        await proxy.stop()
    assert server.calls[0].request["model"] == "org/real"
    assert set(server.calls[0].request) == {"model", "messages"} | asked
    await store.close()


async def test_anthropics_api_is_called_in_its_own_format(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An untrained Anthropic model gets the client's bytes, and the key in its own header."""
    monkeypatch.setenv("CLAUDE_KEY", "sk-ant")
    message = (
        b'{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":'
        b'[{"type":"text","text":"bonjour"}],"stop_reason":"end_turn","stop_sequence":null,'
        b'"usage":{"input_tokens":1,"output_tokens":1}}'
    )
    with ModelServer() as server:
        server.raw["/v1/messages"] = (200, "application/json", message)
        params = {
            "model": "anthropic/claude",
            "api_base": server.url,
            "api_key": "os.environ/CLAUDE_KEY",
        }
        model: ModelConfig = {
            "model_name": "m",
            "litellm_params": params,
            "model_info": {"trained": False},
        }
        proxy = LLMProxy(model_list=[model], store=InMemoryLightningStore(), launch_mode="thread")
        await proxy.start()
        async with AsyncAnthropic(base_url=proxy.gateway.url, api_key="own") as client:
            answer = await client.messages.create(
                model="m", max_tokens=5, messages=[{"role": "user", "content": "hi"}]
            )
        await proxy.stop()
    assert answer.content[0].to_dict()["text"] == "bonjour"
    assert server.calls[0].headers["x-api-key"] == "sk-ant"
    assert server.calls[0].request["model"] == "claude"
