"""Model servers over HTTP: addresses, keys, retries, and several behind one name."""

import asyncio
import json
from typing import Any

import pytest

from agentlightning.errors import ConfigurationError, UpstreamError
from agentlightning.gateway.balance import BalancedUpstream
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.upstream import UpstreamCapabilities, UpstreamRequest
from tests.support.model_server import Answer, ModelServer

CHAT = "/v1/chat/completions"


def request(path: str = CHAT, method: str = "POST", **options: Any) -> UpstreamRequest:
    body = json.dumps({"model": "m", "messages": []}).encode()
    return UpstreamRequest(
        method=method, path=path, headers=options.pop("headers", {}), body=body, **options
    )


async def echo(base_url: str, sent: UpstreamRequest, **options: Any) -> dict[str, Any]:
    """Return what the server saw of a request."""
    upstream = HttpUpstream(base_url, **options)
    response = await upstream.send(sent)
    seen = json.loads(await response.read())
    await response.aclose()
    await upstream.aclose()
    return seen


@pytest.mark.parametrize(
    ("base", "path", "reached"),
    [
        ("", "/v1/embeddings", "/v1/embeddings"),
        ("/", "/v1/embeddings", "/v1/embeddings"),
        ("/v1", "/v1/embeddings", "/v1/embeddings"),
        ("/v1/", "/tokenize", "/tokenize"),
        ("/openai/v1beta", "/v1/embeddings", "/openai/v1beta/embeddings"),
        ("/v1", "/v1/files/a%2Fb", "/v1/files/a%2Fb"),
    ],
)
async def test_base_urls_are_as_clients_are_given_them(
    server: ModelServer, base: str, path: str, reached: str
) -> None:
    """The base URL stands for the `/v1` of a path; other paths start at the server's root."""
    seen = await echo(server.url + base, request(path, query="a=%20b"))
    assert seen["path"] == f"{reached}?a=%20b"


async def test_keys_replace_the_clients(server: ModelServer) -> None:
    """A key of the route is sent instead of the client's; without one the client's passes."""
    sent = request("/v1/x", headers={"authorization": "Bearer client", "x-other": "1"})
    seen = await echo(server.endpoint, sent, api_key="route")
    assert {k.lower(): v for k, v in seen["headers"].items()}["authorization"] == "Bearer route"
    own = request("/v1/messages", headers={"authorization": "Bearer client", "x-api-key": "c"})
    headers = {
        k.lower(): v
        for k, v in (await echo(server.endpoint, own, api_key="route"))["headers"].items()
    }
    assert (headers["x-api-key"], headers.get("authorization")) == ("route", None)
    seen = await echo(server.endpoint, sent)
    assert {k.lower(): v for k, v in seen["headers"].items()}["authorization"] == "Bearer client"
    assert {k.lower(): v for k, v in seen["headers"].items()}["x-other"] == "1"


async def test_retries_end(server: ModelServer) -> None:
    """After the last retry the answer is the server's, or the error of reaching it."""
    server.script = Answer(status=503, headers={"retry-after": "0"})
    upstream = HttpUpstream(server.endpoint, retries=2)
    response = await upstream.send(request())
    assert response.status == 503
    assert len(server.calls) == 3
    await response.aclose()
    server.stop()
    with pytest.raises(UpstreamError, match="failed"):
        await upstream.send(request())
    await upstream.aclose()


async def test_mistakes_of_the_client_are_not_retried(server: ModelServer) -> None:
    """A 400 comes back at once."""
    server.script = Answer(status=400)
    upstream = HttpUpstream(server.endpoint, retries=5)
    response = await upstream.send(request())
    await response.aclose()
    await upstream.aclose()
    assert len(server.calls) == 1


async def test_closing_an_answer_hangs_up(server: ModelServer) -> None:
    """The server learns that nobody waits for the rest."""
    server.script = Answer(text="long " * 50, pace_seconds=0.02)
    upstream = HttpUpstream(server.endpoint)
    body = json.dumps({"model": "m", "messages": [], "stream": True}).encode()
    response = await upstream.send(UpstreamRequest(method="POST", path=CHAT, headers={}, body=body))
    async for _ in response.body:
        break
    await response.aclose()
    await response.aclose()
    async with asyncio.timeout(5):
        while not server.calls[0].cancelled:
            await asyncio.sleep(0.01)
    await upstream.aclose()


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://h/v1", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    """A wrong URL is told when it is written, not at the first call."""
    with pytest.raises(ConfigurationError, match="http://host:port/v1"):
        HttpUpstream(url)


async def test_the_least_busy_server_is_called() -> None:
    """While one server is slow, the other gets the calls; both can do what each can."""
    with ModelServer(Answer(delay_seconds=0.3)) as slow, ModelServer() as quick:
        can = UpstreamCapabilities(token_ids=True, logprobs=True)
        upstream = BalancedUpstream(
            [
                HttpUpstream(slow.endpoint, capabilities=can),
                HttpUpstream(quick.endpoint, capabilities=UpstreamCapabilities(token_ids=True)),
            ]
        )
        assert upstream.capabilities == UpstreamCapabilities(token_ids=True)

        async def call() -> None:
            response = await upstream.send(request())
            await response.read()
            await response.aclose()

        # Two calls, so that one of them is at the slow server however the turns fall.
        waiting = [asyncio.create_task(call()) for _ in range(2)]
        assert await asyncio.to_thread(slow.reached.wait, 5)
        assert await asyncio.to_thread(quick.reached.wait, 5)
        for _ in range(4):
            await call()
        assert len(quick.calls) >= 4
        await asyncio.gather(*waiting)
        await upstream.aclose()
        assert len(slow.calls) + len(quick.calls) == 6
