"""Counting a prompt's tokens for Anthropic's client."""

import json
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from agentlightning.gateway.upstream import UpstreamCapabilities
from tests.gateway.running import Running, running
from tests.support.model_server import ModelServer

ASK: dict[str, Any] = {
    "model": "m",
    "system": "Be brief.",
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
}
NATIVE = UpstreamCapabilities(dialects=frozenset({"anthropic.messages"}))
JSON = "application/json"


async def count(run: Running, **members: Any) -> int:
    async with AsyncAnthropic(base_url=run.attempt_url, api_key="k", max_retries=0) as client:
        return (await client.messages.count_tokens(**{**ASK, **members})).input_tokens


async def test_chat_servers_tokenise(server: ModelServer) -> None:
    """A chat server is asked to tokenise what a call would give it; no call is recorded."""
    server.raw["/tokenize"] = (200, JSON, b'{"count": 17, "tokens": [], "max_model_len": 99}')
    overrides = {"chat_template_kwargs": {"enable_thinking": False}}
    async with running(server, overrides=overrides) as run:
        assert await count(run, thinking={"type": "adaptive"}) == 17
        assert await run.records() == []
        assert run.gateway.stats.passed_through == 1
    assert server.calls[0].path == "/tokenize"
    assert server.calls[0].request == {
        "model": "real-m",
        "messages": [{"role": "system", "content": "Be brief."}, *ASK["messages"]],
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        ],
        "chat_template_kwargs": {"enable_thinking": False},
        "add_generation_prompt": True,
    }


async def test_native_servers_count_themselves(server: ModelServer) -> None:
    """A server of Anthropic's format is asked as the client asked."""
    path = "/v1/messages/count_tokens"
    server.raw[path] = (200, JSON, b'{"input_tokens": 5}')
    async with running(server, trained=False, capabilities=NATIVE) as run:
        assert await count(run) == 5
        assert await run.records() == []
    assert server.calls[0].path == path
    assert server.calls[0].request == {**ASK, "model": "real-m"}


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b'{"detail": "Not Found"}'), (200, b'{"tokens": []}'), (200, b"no json"), (422, b"{}")],
)
async def test_servers_that_cannot_count(server: ModelServer, status: int, body: bytes) -> None:
    """Without a tokenizer the client gets a 501, not a wrong number."""
    server.raw["/tokenize"] = (status, JSON, body)
    async with running(server) as run:
        with pytest.raises(anthropic.InternalServerError, match="cannot count") as caught:
            await count(run)
    told: Any = caught.value.body
    assert (caught.value.status_code, told["error"]["type"]) == (501, "api_error")


async def test_errors(server: ModelServer) -> None:
    """Errors of the server, of the request and of the address are told in Anthropic's shape."""
    error = {"error": {"message": "too many", "type": "x", "code": "y"}}
    server.raw["/tokenize"] = (429, JSON, json.dumps(error).encode())
    async with running(server) as run:
        with pytest.raises(anthropic.RateLimitError, match=r"rate_limit_error.*too many"):
            await count(run)
        with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
            await count(run, model="unknown")
        with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0"):
            blocks = [{"type": "container_upload", "file_id": "f"}]
            await count(run, messages=[{"role": "user", "content": blocks}])
        server.stop()
        with pytest.raises(anthropic.InternalServerError, match="api_error"):
            await count(run)
