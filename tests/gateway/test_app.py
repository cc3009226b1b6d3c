"""Addresses: what the gateway answers itself, what it passes through, whom it lets in."""

import httpx
import openai
import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.gateway.server import Gateway
from agentlightning.store.memory import InMemoryLightningStore
from tests.gateway.running import HELLO, running
from tests.support.model_server import Answer, ModelServer

BODY = {"model": "m", "messages": HELLO}


async def test_models_are_listed(server: ModelServer) -> None:
    """The model list names the aliases, under the attempt's URL and without."""
    async with running(server) as run, run.client() as client:
        assert [model.id async for model in client.models.list()] == ["m"]
        assert (await client.models.retrieve("m")).id == "m"
        async with run.client(base_url=run.gateway.endpoint) as plain:
            assert [model.id async for model in plain.models.list()] == ["m"]
        assert (await run.records()) == []


async def test_health_asks_no_model(server: ModelServer) -> None:
    """The health probe answers without a call to a model server."""
    async with running(server) as run, httpx.AsyncClient() as client:
        assert (await client.get(f"{run.gateway.url}/health")).json() == {"status": "ok"}
    assert server.calls == []


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions"])
async def test_base_urls_without_or_with_two_versions_work(server: ModelServer, path: str) -> None:
    """Clients whose base URL lacks the version, or has it twice, reach the same route."""
    async with running(server) as run, httpx.AsyncClient() as client:
        answer = await client.post(f"{run.attempt_url}{path}", json=BODY)
        assert answer.status_code == 200
        assert (await run.record()).outcome == "ok"


async def test_headers_attribute_as_paths_do(server: ModelServer) -> None:
    """A call may name its attempt in headers, which the server does not see."""
    async with running(server) as run:
        headers = {"x-rollout-id": run.rollout_id, "x-attempt-id": run.attempt_id}
        async with run.client(base_url=run.gateway.endpoint, default_headers=headers) as client:
            await client.chat.completions.create(model="m", messages=HELLO)
        assert (await run.record()).attempt_id == run.attempt_id
    assert not {"x-rollout-id", "x-attempt-id"} & set(server.calls[0].headers)


async def test_half_an_attribution_is_refused(server: ModelServer) -> None:
    """A rollout without an attempt is a mistake of the client, not an unrecorded call."""
    async with running(server) as run:
        headers = {"x-rollout-id": run.rollout_id}
        async with run.client(base_url=run.gateway.endpoint, default_headers=headers) as client:
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(model="m", messages=HELLO)
    assert server.calls == []


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_of_no_attempt_pass_and_are_counted(server: ModelServer, stream: bool) -> None:
    """A call without ids is served as the server answers it, unrecorded, and counted."""
    server.script = Answer(text="世界", spaced=True)
    body = {**BODY, "stream": stream}
    async with running(server) as run, httpx.AsyncClient() as client:
        through = await client.post(f"{run.gateway.endpoint}/chat/completions", json=body)
        plain = await client.post(
            f"{server.endpoint}/chat/completions", json={**body, "model": "real-m"}
        )
        assert through.content == plain.content
        assert run.gateway.stats.unattributed == 1
        assert await run.records() == []


async def test_unknown_paths_pass_through(server: ModelServer) -> None:
    """Other paths reach the server with method, query, body and the real model name."""
    async with running(server) as run, httpx.AsyncClient() as client:
        body = {"model": "m", "input": "é"}
        echo = (await client.post(f"{run.base_url}/embeddings?a=1%202", json=body)).json()
        assert (echo["method"], echo["path"]) == ("POST", "/v1/embeddings?a=1%202")
        assert httpx.Response(200, content=echo["body"]).json() == {**body, "model": "real-m"}
        echo = (await client.get(f"{run.attempt_url}/tokenizer_info")).json()
        assert (echo["method"], echo["path"]) == ("GET", "/tokenizer_info")
        form = await client.post(f"{run.base_url}/audio", files={"file": b"\x00not json"})
        assert "multipart/form-data" in form.json()["headers"]["Content-Type"]
        assert run.gateway.stats.passed_through == 3


async def test_pass_through_tells_of_dead_servers(server: ModelServer) -> None:
    """A request that cannot be passed on is a 502 in the OpenAI error shape."""
    async with running(server) as run, httpx.AsyncClient() as client:
        server.stop()
        answer = await client.post(f"{run.base_url}/embeddings", json={"model": "m"})
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_error"
        answer = await client.post(f"{run.base_url}/embeddings", json={"model": "other"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_default_model_serves_names_it_does_not_know(server: ModelServer) -> None:
    """With a default, agents that hard-code a model name reach it, and the record keeps theirs."""
    async with running(server, default_model="m") as run, run.client() as client:
        await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert (await run.record()).model == "gpt-4o"
    assert server.calls[0].request["model"] == "real-m"


async def test_a_secret_keeps_others_out(server: ModelServer) -> None:
    """With a secret, only clients that send it as their key are served, and it goes no further."""
    async with running(server, secret="s3cret") as run:
        async with run.client(api_key="wrong") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(model="m", messages=HELLO)
        async with run.client(api_key="s3cret") as client:
            await client.chat.completions.create(model="m", messages=HELLO)
        async with httpx.AsyncClient() as client:
            assert (await client.post(f"{run.attempt_url}/seal")).status_code == 401
            assert (await client.get(f"{run.gateway.url}/health")).status_code == 200
    assert [call.headers.get("authorization") for call in server.calls] == [None]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_public_addresses_need_a_secret(host: str) -> None:
    """A gateway that others can reach does not start without a secret."""
    store = InMemoryLightningStore()
    with pytest.raises(ConfigurationError, match="secret"):
        Gateway(store, models={}, host=host)
    Gateway(store, models={}, host=host, secret="s")


async def test_seal_checks_its_timeout(server: ModelServer) -> None:
    """A timeout that is no number of seconds is refused."""
    async with running(server) as run, httpx.AsyncClient() as client:
        for timeout in (-1, "1", True):
            answer = await client.post(f"{run.attempt_url}/seal", json={"timeout": timeout})
            assert answer.status_code == 400
