"""A gateway under load, paused, drained, sealed and stopped."""

import asyncio
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI

from agentlightning.errors import ConfigurationError, GatewayError
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types.resources import ProxyLLM
from tests.gateway.running import HELLO, running
from tests.support.model_server import Answer, ModelServer, text_of
from tests.support.threads import new_threads


def echo(request: dict[str, Any]) -> Answer:
    return Answer(text="you said " + request["messages"][0]["content"])


async def test_many_rollouts_at_once_are_not_mixed(server: ModelServer) -> None:
    """200 rollouts of 3 calls each, from threads and tasks, streamed and not, yield exactly the
    server's own log, each call under its rollout.
    """
    server.script = echo
    async with running(server) as run:
        rollouts = [await run.store.start_rollout(input=at) for at in range(200)]
        llm = ProxyLLM(endpoint=run.gateway.endpoint, model="m")
        urls = [llm.with_attempted_rollout(rollout).endpoint for rollout in rollouts]

        def ask(rollout_id: str, at: int) -> dict[str, Any]:
            content = f"{rollout_id} call {at}"
            return {"model": "m", "messages": [{"role": "user", "content": content}]}

        transport = DefaultAsyncHttpxClient(timeout=60)

        async def in_task(at: int) -> None:
            client = AsyncOpenAI(
                base_url=urls[at], api_key="x", max_retries=0, http_client=transport
            )
            for call in range(3):
                asked = ask(rollouts[at].rollout_id, call)
                if call == 1:
                    stream = await client.chat.completions.create(**asked, stream=True)
                    text = "".join([c.choices[0].delta.content or "" async for c in stream])
                else:
                    answer = await client.chat.completions.create(**asked)
                    text = answer.choices[0].message.content or ""
                assert text == "you said " + asked["messages"][0]["content"]

        def in_thread(at: int) -> None:
            with DefaultHttpxClient(timeout=60) as http:
                client = OpenAI(base_url=urls[at], api_key="x", max_retries=0, http_client=http)
                for call in range(3):
                    client.chat.completions.create(**ask(rollouts[at].rollout_id, call))

        with ThreadPoolExecutor(16) as pool:
            loop = asyncio.get_running_loop()
            threads = [loop.run_in_executor(pool, in_thread, at) for at in range(100)]
            await asyncio.gather(*threads, *(in_task(at) for at in range(100, 200)))
        await transport.aclose()

        stored: Counter[tuple[Any, ...]] = Counter()
        for rollout in rollouts:
            records = await run.records(rollout.rollout_id)
            assert len(records) == 3
            for record in records:
                assert rollout.rollout_id in text_of(record.prompt_token_ids)
                assert record.attempt_id == rollout.attempt.attempt_id
                (choice,) = record.choices
                stored[(*record.prompt_token_ids, -1, *choice.token_ids, *choice.logprobs)] += 1
    log = Counter(
        (*call.prompt_token_ids, -1, *call.token_ids[0], *call.logprobs[0]) for call in server.calls
    )
    assert len(server.calls) == 600
    assert stored == log


async def test_pause_holds_calls_back_and_loses_none(server: ModelServer) -> None:
    """While paused and drained no call is at the server; all that waited are answered after."""
    server.script = Answer(delay_seconds=0.02)
    async with running(server) as run, run.client() as client:

        async def work() -> None:
            for _ in range(8):
                await client.chat.completions.create(model="m", messages=HELLO)

        working = [asyncio.create_task(work()) for _ in range(10)]
        for _ in range(3):
            await asyncio.sleep(0.03)
            await run.gateway.pause()
            assert await run.gateway.drain(5)
            reached = len(server.calls)
            assert all(call.finished for call in server.calls)
            await asyncio.sleep(0.05)
            assert len(server.calls) == reached
            run.gateway.resume()
        await asyncio.gather(*working)
        assert len(server.calls) == 80
        assert [record.outcome for record in await run.records()] == ["ok"] * 80


async def test_waiting_too_long_while_paused_is_a_retryable_error(server: ModelServer) -> None:
    """A call that waited its time gets a 503 that clients retry, and a record."""
    async with running(server, pause_wait_seconds=0.05) as run, run.client() as client:
        await run.gateway.pause()
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="m", messages=HELLO)
        assert caught.value.status_code == 503
        assert caught.value.code == "paused"
        assert (await run.record()).outcome == "error"
        run.gateway.resume()
        await client.chat.completions.create(model="m", messages=HELLO)


async def test_judges_do_not_wait_for_updates(server: ModelServer) -> None:
    """Pausing concerns trained models only."""
    async with running(server, trained=False) as run, run.client() as client:
        await run.gateway.pause()
        await client.chat.completions.create(model="m", messages=HELLO)
        run.gateway.resume()


async def test_drain_gives_up_in_time(server: ModelServer) -> None:
    """A drain that takes too long says so, and the call goes on."""
    server.script = Answer(delay_seconds=0.3)
    async with running(server) as run, run.client() as client:
        calling = asyncio.create_task(client.chat.completions.create(model="m", messages=HELLO))
        assert await asyncio.to_thread(server.reached.wait, 5)
        assert await run.gateway.drain(0.01) is False
        assert await run.gateway.drain(5) is True
        await calling


async def test_seal_waits_for_calls_in_flight(server: ModelServer) -> None:
    """A seal returns when the last call has its record, and counts it; one that comes later is
    served and counted too.
    """
    server.script = Answer(delay_seconds=0.2)
    async with running(server) as run, run.client() as client, httpx.AsyncClient() as http:
        calling = asyncio.create_task(client.chat.completions.create(model="m", messages=HELLO))
        assert await asyncio.to_thread(server.reached.wait, 5)
        seal = f"{run.attempt_url}/seal"
        early = (await http.post(seal, json={"timeout": 0.01})).json()
        assert early["calls"] == {"started": 1, "finished": 0, "failed": 0, "cancelled": 0}
        sealed = (await http.post(seal, json={"timeout": 5})).json()
        assert sealed["calls"] == {"started": 1, "finished": 1, "failed": 0, "cancelled": 0}
        assert len(await run.records()) == 1
        await calling
        await client.chat.completions.create(model="m", messages=HELLO)
        late = (await http.post(seal)).json()
        assert late["calls"]["finished"] == 2


async def test_an_attempt_without_calls_seals_at_once(server: ModelServer) -> None:
    """The seal of an attempt that made no call has zeros."""
    async with running(server) as run, httpx.AsyncClient() as http:
        answer = await http.post(f"{run.attempt_url}/seal", json={"timeout": 60})
    zeros = {"started": 0, "finished": 0, "failed": 0, "cancelled": 0}
    assert answer.json() == {"calls": zeros, "unrecorded": 0, "errors": {}}


async def test_models_change_while_running(server: ModelServer) -> None:
    """A route set while the gateway runs serves the next call."""
    with ModelServer(Answer(text="new")) as other:
        async with running(server) as run, run.client() as client:
            await client.chat.completions.create(model="m", messages=HELLO)
            upstream = HttpUpstream(other.endpoint)
            run.gateway.set_model("m", ModelRoute(upstream=upstream, model="v2"))
            answer = await client.chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == "new"
    assert other.calls[0].request["model"] == "v2"


async def test_stopping_records_the_calls_it_cuts_off(server: ModelServer) -> None:
    """A call that outlives the grace of a stop is recorded as cancelled."""
    server.script = Answer(fault="hang")
    store = InMemoryLightningStore()
    rollout = await store.start_rollout(input=1)
    upstream = HttpUpstream(server.endpoint)
    gateway = Gateway(store, models={"m": ModelRoute(upstream=upstream, model="m")})
    await gateway.start()
    path = f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}"
    async with httpx.AsyncClient() as http:
        body = {"model": "m", "messages": HELLO}
        url = f"{gateway.url}{path}/chat/completions"
        calling = asyncio.create_task(http.post(url, json=body))
        assert await asyncio.to_thread(server.reached.wait, 5)
        await gateway.stop(grace_seconds=0)
        assert (await calling).status_code == 503
    (span,) = await store.query_spans(rollout.rollout_id)
    await store.close()
    assert json.loads(str(span.attributes["agentlightning.call"]))["outcome"] == "cancelled"


async def test_starting_and_stopping_are_idempotent_and_leave_nothing(server: ModelServer) -> None:
    """A gateway can be started again at its address, and leaves no thread behind."""
    with new_threads() as started:
        async with running(server) as run:
            gateway = run.gateway
            await gateway.start()
            url = gateway.url
            await gateway.stop()
            await gateway.stop()
            assert not gateway.is_running
            with pytest.raises(GatewayError):
                await gateway.pause()
            await gateway.start()
            assert gateway.is_running
            assert gateway.url == url
            async with run.client() as client:
                await client.chat.completions.create(model="m", messages=HELLO)
        assert not started("gateway")


async def test_a_taken_port_is_an_error_at_once(server: ModelServer) -> None:
    """Starting on a port that is in use raises instead of serving nowhere."""
    async with running(server) as run:
        port = int(run.gateway.url.rsplit(":", 1)[1])
        other = Gateway(run.store, models={}, port=port)
        with pytest.raises(ConfigurationError, match="in use"):
            await other.start()


def test_there_is_no_address_before_the_start() -> None:
    """A gateway whose port the system is to choose has no URL yet."""
    with pytest.raises(GatewayError, match="start"):
        _ = Gateway(InMemoryLightningStore(), models={}).url
