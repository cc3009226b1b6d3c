"""Responses are had, deleted and gone on from in every process, whichever gave them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.gateway.upstream import UpstreamCapabilities
from agentlightning.store.memory import InMemoryLightningStore
from tests.gateway.running import Running, running
from tests.support.model_server import Answer, ModelServer

ASK: dict[str, Any] = {"model": "m", "input": "hi"}
TOOL: Any = {"type": "function", "name": "search", "parameters": {"type": "object"}, "strict": None}


@asynccontextmanager
async def two(server: ModelServer) -> AsyncGenerator[tuple[Running, AsyncOpenAI, AsyncOpenAI]]:
    """Run two gateways on one store, as two processes do; the first tells the second."""
    store = InMemoryLightningStore(thread_safe=True)
    async with (
        running(server, store) as other,
        running(server, store, peers=[other.gateway.url]) as run,
        run.client() as here,
        run.client(base_url=run.base_url.replace(run.gateway.url, other.gateway.url)) as there,
    ):
        yield run, here, there


async def say(client: AsyncOpenAI, *, stream: bool = False, **options: Any) -> Any:
    """Return a response as the client knows it at its end."""
    asked: dict[str, Any] = {**ASK, **options}
    if not stream:
        return await client.responses.create(**asked)
    async with client.responses.stream(**asked) as events:
        return await events.get_final_response()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_had_again(server: ModelServer, stream: bool) -> None:
    """Either process gives the response that the client got, times and usage included."""
    tools = [("search", '{"q": 1}'), ("search", "{}")]
    server.script = Answer(text="so", reasoning="Hm", tools=tools, cached_tokens=1)
    async with two(server) as (_, here, there):
        made = await say(here, stream=stream, tools=[TOOL], instructions="Once.")
        same, elsewhere = [await client.responses.retrieve(made.id) for client in (here, there)]
    expected = made.to_dict()
    for item in expected["output"]:
        # Parsed by the client's library, not told by the server.
        item.pop("parsed_arguments", None)
        for part in item.get("content") or []:
            part.pop("parsed", None)
    assert same.to_dict() == expected
    assert elsewhere.to_dict() == expected
    assert len(server.calls) == 1


async def test_answers_go_on_in_another_process(server: ModelServer) -> None:
    """Chains and references lead through what both processes gave, in the same words."""
    async with two(server) as (_, here, there):
        first = await say(here, instructions="Once.")
        second = await say(there, input="and?", previous_response_id=first.id, stream=True)
        third = await say(here, input="so?", previous_response_id=second.id)
        in_chain = server.calls[-1].request["messages"]
        referred: list[Any] = [{"type": "item_reference", "id": second.output[0].id}]
        await say(there, input=["hi", *referred][1:], previous_response_id=first.id)
        by_reference = server.calls[-1].request["messages"]
    said = [(message["role"], message["content"]) for message in in_chain]
    hello = ("assistant", "hello")
    assert said == [("user", "hi"), hello, ("user", "and?"), hello, ("user", "so?")]
    assert third.output_text == "hello"
    assert [message["role"] for message in by_reference] == ["user", "assistant"]


async def test_what_is_deleted_is_gone_everywhere(server: ModelServer) -> None:
    """No process gives or goes on from it, not even one that starts later."""
    async with two(server) as (run, here, there):
        first = await say(there)
        second = await say(there, previous_response_id=first.id)
        await here.responses.delete(first.id)
        upstream = HttpUpstream(server.endpoint)
        later = Gateway(run.store, models={"m": ModelRoute(upstream=upstream, model="real-m")})
        await later.start()
        path = run.base_url.removeprefix(run.gateway.url)
        async with run.client(base_url=later.url + path) as fresh:
            for client in (here, there, fresh):
                with pytest.raises(openai.NotFoundError, match="not found"):
                    await client.responses.retrieve(first.id)
                with pytest.raises(openai.NotFoundError):
                    await client.responses.delete(first.id)
                with pytest.raises(openai.BadRequestError) as caught:
                    await say(client, previous_response_id=first.id)
                assert caught.value.code == "previous_response_not_found"
                # What went on from it before is whole.
                assert (await say(client, previous_response_id=second.id)).output_text == "hello"
        await later.stop()


async def test_others_responses_are_not_given(server: ModelServer) -> None:
    """Another attempt's, unstored and failed ones are unknown, in the process that gave them too."""
    async with two(server) as (run, here, there):
        stored, unstored = await say(here), await say(here, store=False)
        other = await run.store.start_rollout(input="other")
        path = f"/rollout/{other.rollout_id}/attempt/{other.attempt.attempt_id}/v1"
        async with run.client(base_url=run.gateway.url + path) as stranger:
            for client, name in (
                (stranger, stored.id),
                (here, unstored.id),
                (there, unstored.id),
                (here, "resp_none"),
            ):
                with pytest.raises(openai.NotFoundError):
                    await client.responses.retrieve(name)
                with pytest.raises(openai.BadRequestError):
                    await say(client, previous_response_id=name)
        assert (await here.responses.retrieve(stored.id)).id == stored.id


async def test_calls_of_no_attempt_are_known_here(server: ModelServer) -> None:
    """What is not recorded is given and deleted by the process that remembers it."""
    async with running(server) as run, run.client(base_url=run.gateway.endpoint) as client:
        made = await say(client)
        assert (await client.responses.retrieve(made.id)).output_text == "hello"
        await client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)
        assert not list(await run.store.query_spans(run.rollout_id))


async def test_servers_that_keep_responses_are_asked_for_theirs(server: ModelServer) -> None:
    """Ours come from us, and unknown ids from the server that keeps its own."""
    native = UpstreamCapabilities(dialects=frozenset({"openai.chat", "openai.responses"}))
    with ModelServer() as judge:
        async with two(server) as (run, here, there):
            upstream = HttpUpstream(judge.endpoint, capabilities=native)
            keeper = ModelRoute(upstream=upstream, model="judge", trained=False)
            run.gateway.set_model("judge", keeper)
            ours = await say(there)
            assert (await here.responses.retrieve(ours.id)).output_text == "hello"
            theirs = await here.responses.with_raw_response.retrieve("resp_theirs")
            assert theirs.http_response.json()["path"] == "/v1/responses/resp_theirs"
            await here.responses.delete(ours.id)


async def test_responses_are_not_streamed_again(server: ModelServer) -> None:
    """A stored response is given whole or not at all; paths below it are not served."""
    async with running(server) as run, run.client() as client:
        made = await say(client)
        with pytest.raises(openai.BadRequestError, match="not streamed again"):
            await client.responses.retrieve(made.id, stream=True)


async def test_a_peers_order_is_for_one_attempt(server: ModelServer) -> None:
    """What claims to come from a peer deletes only what its path names, and of that attempt."""
    peer = {"x-agl-peer": "1"}
    async with running(server) as run, run.client() as client, httpx.AsyncClient() as http:
        made = await say(client)
        await http.delete(f"{run.gateway.endpoint}/responses/{made.id}", headers=peer)
        assert (await client.responses.retrieve(made.id)).id == made.id
        await http.delete(f"{run.base_url}/responses/{made.id}", headers=peer)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)


async def test_a_store_that_does_not_know_the_attempt(server: ModelServer) -> None:
    """An attempt that there is not has no responses: a 404, not an error of ours."""
    async with running(server) as run:
        base = f"{run.gateway.url}/rollout/none/attempt/none/v1"
        async with run.client(base_url=base) as client:
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve("resp_1")
