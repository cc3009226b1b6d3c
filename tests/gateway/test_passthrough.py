"""What is no model call passes through, for attempts as well; it is counted, not recorded."""

import json
from typing import Any

import openai
import pytest

from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.upstream import UpstreamCapabilities
from tests.gateway.running import running
from tests.support.model_server import ModelServer

JSON = "application/json"
EMBEDDINGS: dict[str, Any] = {
    "object": "list",
    "model": "real-m",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}


async def test_embeddings_of_an_attempt(server: ModelServer) -> None:
    """An attempt's embeddings come from the model's server, under the name that it knows."""
    server.raw["/v1/embeddings"] = (200, JSON, json.dumps(EMBEDDINGS).encode())
    async with running(server) as run, run.client() as client:
        answer = await client.embeddings.create(
            model="m", input=["hé", "b"], encoding_format="float"
        )
        assert await run.records() == []
        stats = run.gateway.stats
    assert answer.data[0].embedding == [0.5, -0.25]
    (call,) = server.calls
    sent = {"model": "real-m", "input": ["hé", "b"], "encoding_format": "float"}
    assert call.request == sent
    assert "rollout" not in call.path
    assert (stats.passed_through, stats.recorded, stats.unattributed) == (1, 0, 0)


async def test_errors_of_embeddings_pass(server: ModelServer) -> None:
    """What a server says against a request reaches the client as it is."""
    error = {"error": {"message": "No.", "type": "t", "code": "c", "param": None}}
    server.raw["/v1/embeddings"] = (400, JSON, json.dumps(error).encode())
    async with running(server) as run, run.client() as client:
        with pytest.raises(openai.BadRequestError, match="No") as caught:
            await client.embeddings.create(model="m", input="x")
    assert caught.value.body == error["error"]


async def test_models_of_an_attempt(server: ModelServer) -> None:
    """An attempt sees the names that it may use, and asks no server for them."""
    async with running(server) as run, run.client() as client:
        listed = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("m")
        assert await run.records() == []
    assert listed == ["m"]
    assert (one.id, one.object) == ("m", "model")
    assert server.calls == []


async def test_unknown_paths_of_an_attempt(server: ModelServer) -> None:
    """Any other request reaches the server without the attempt in its path or headers."""
    async with running(server) as run, run.client() as client:
        raw = await client.moderations.with_raw_response.create(input="x", model="m")
        seen = raw.http_response.json()
        got = await client.get("/some/thing?a=1", cast_to=object)
        assert await run.records() == []
        assert run.gateway.stats.passed_through == 2
    assert seen["path"] == "/v1/moderations"
    assert json.loads(seen["body"]) == {"input": "x", "model": "real-m"}
    assert isinstance(got, dict)
    assert (got["path"], got["method"]) == ("/v1/some/thing?a=1", "GET")


async def test_stored_responses_are_asked_of_a_server_that_stores(server: ModelServer) -> None:
    """A response's id names no model: the one whose server keeps responses is asked."""
    native = UpstreamCapabilities(dialects=frozenset({"openai.chat", "openai.responses"}))
    with ModelServer() as judge:
        upstream = HttpUpstream(judge.endpoint, capabilities=native)
        async with running(server) as run, run.client() as client:
            route = ModelRoute(upstream=upstream, model="gpt", trained=False)
            run.gateway.set_model("judge", route)
            stored = {"id": "resp_1", "object": "response", "output": []}
            judge.raw["/v1/responses/resp_1/cancel"] = (200, JSON, json.dumps(stored).encode())
            answer = await client.responses.with_raw_response.retrieve("resp_1")
            assert answer.http_response.json()["path"] == "/v1/responses/resp_1"
            with pytest.raises(openai.NotFoundError):
                await client.get("/files/f", cast_to=object)
