"""Statuses, JSON and streams of a model server as our errors and values."""

import asyncio

import pytest

from agentlightning.errors import (
    ConfigurationError,
    ContextLengthError,
    RequestError,
    UpstreamError,
)
from agentlightning.inference.vllm_server import VLLMServer

BODY = {"model": "base", "prompt": [1], "max_tokens": 8, "temperature": 1.0, "logprobs": 0}


@pytest.fixture
async def client(server):
    client = VLLMServer(server.url)
    yield client
    await client.aclose()


@pytest.mark.parametrize(
    ("status", "message", "kind", "code"),
    [
        (400, "This model's maximum context length is 9 tokens.", ContextLengthError, None),
        (400, "top_p must be in (0, 1]", RequestError, "invalid_request_error"),
        (401, "Unauthorized", RequestError, "invalid_request_error"),
        (404, "The model `x` does not exist.", RequestError, "invalid_request_error"),
    ],
)
async def test_a_refusal_is_an_error_of_ours(client, server, status, message, kind, code):
    """What the server says is wrong with a request is told with its own status and words."""
    server.refusals = [(status, message)]
    with pytest.raises(kind, match=message[:20].replace("(", ".")) as caught:
        await client.complete(BODY)
    assert caught.value.status == status
    assert code is None or caught.value.error_code == code
    assert len(server.completions) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_busy_server_is_asked_again(client, server, stream):
    """429 and 5xx before the answer begins are tried again."""
    server.refusals = [(429, "busy"), (503, "starting")]
    if stream:
        chunks = [chunk async for chunk in client.stream({**BODY, "stream": True})]
        assert chunks[-1]["usage"]["completion_tokens"] == 2
    else:
        assert (await client.complete(BODY))["usage"]["completion_tokens"] == 2
    assert len(server.completions) == 3


@pytest.mark.parametrize(
    ("refusal", "kind", "status"),
    [((429, "busy"), RequestError, 429), ((500, "oh"), UpstreamError, None)],
)
async def test_an_order_is_given_once(server, client, refusal, kind, status, monkeypatch):
    """Orders are not repeated, since the first may have been carried out; nor completions for ever."""
    monkeypatch.setattr("agentlightning.gateway.http_upstream._FIRST_RETRY_SECONDS", 0.001)
    server.refusals = [refusal] * 9
    with pytest.raises(kind, match=refusal[1]) as caught:
        await client.call("POST", "/v1/completions", BODY)
    assert getattr(caught.value, "status", None) == status
    assert len(server.completions) == 1
    with pytest.raises(kind, match=refusal[1]):
        await client.complete(BODY)
    assert len(server.completions) == 6


async def test_a_server_that_is_away_is_an_upstream_error():
    """Nobody at the address is not the client's fault."""
    client = VLLMServer("http://127.0.0.1:9", timeout=1)
    with pytest.raises(UpstreamError, match="127"):
        await client.call("GET", "/v1/models")
    await client.aclose()


async def test_a_stream_that_breaks_off_is_an_error(client, server):
    """What came before the break is told, and then the break."""
    server.cut_after = 1
    server.say = "red green"
    seen = []
    with pytest.raises(UpstreamError, match=r"broke off|failed"):
        async for chunk in client.stream({**BODY, "stream": True}):
            seen.append(chunk)
    assert len(seen) == 1


async def test_an_error_in_a_stream_is_raised(client, server):
    """vLLM tells errors in mid-stream as data."""
    server.say = lambda body: "red"
    server.in_stream = {"error": {"message": "EngineCore died", "code": 500}}
    with pytest.raises(UpstreamError, match="EngineCore died"):
        async for _ in client.stream({**BODY, "stream": True}):
            pass


async def test_a_stream_that_is_closed_is_given_up(client, server):
    """Closing the iterator ends the completion at the server."""
    server.free.clear()
    chunks = client.stream({**BODY, "stream": True})
    await anext(chunks)
    await chunks.aclose()
    while not server.given_up:
        await asyncio.sleep(0.001)


async def test_what_is_no_json_is_an_error(client, server):
    """A proxy's page in place of an answer is told as such."""
    server.refusals = [(200, "page")]
    with pytest.raises(UpstreamError, match="something else than JSON"):
        await client.complete(BODY)


def test_an_address_that_is_none_is_refused():
    """What is no URL is named."""
    with pytest.raises(ConfigurationError, match="not the URL"):
        VLLMServer("ftp://host")
