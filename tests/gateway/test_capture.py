"""How calls end: every way leaves one record, and no success is seen without one."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from agentlightning.errors import EngineDeadError, StoreUnavailableError
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.gateway.upstream import (
    UpstreamCapabilities,
    UpstreamRequest,
    UpstreamResponse,
)
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import Span
from tests.gateway.running import HELLO, Running, running
from tests.support.model_server import Answer, Fault, ModelServer


class SlowStore(InMemoryLightningStore):
    """Takes its time to store a span, and says when it begins and when it has."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.begun = 0
        self.stored = 0

    async def add_span(self, span: Span) -> Span | None:
        self.begun += 1
        await asyncio.sleep(self.seconds)
        added = await super().add_span(span)
        self.stored += 1
        return added


class DownStore(InMemoryLightningStore):
    """Cannot be reached while `down`."""

    down = True

    async def add_span(self, span: Span) -> Span | None:
        if self.down:
            raise StoreUnavailableError("The store is down. Start it.")
        return await super().add_span(span)


async def call(run: Running, *, stream: bool = False, **options: Any) -> str:
    """Make one call and return its text."""
    async with run.client(**options) as client:
        if not stream:
            answer = await client.chat.completions.create(model="m", messages=HELLO)
            return answer.choices[0].message.content or ""
        chunks = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])


async def calls_of(run: Running, timeout: float = 5.0) -> dict[str, int]:
    """Seal the attempt and return its counts."""
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{run.attempt_url}/seal", json={"timeout": timeout})
    return answer.json()["calls"]


@pytest.mark.parametrize("status", [400, 429, 500])
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_of_the_server_pass_and_are_recorded(
    server: ModelServer, status: int, stream: bool
) -> None:
    """Status, body and headers of a failed call reach the client, and one record says so."""
    server.script = Answer(status=status, headers={"retry-after": "7"})
    async with running(server) as run:
        with pytest.raises(openai.APIStatusError) as caught:
            await call(run, stream=stream)
        record = await run.record()
        assert await calls_of(run) == {"started": 1, "finished": 0, "failed": 1, "cancelled": 0}
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.body == {
        "message": "scripted failure",
        "type": "server_error",
        "code": "scripted",
    }
    assert (record.outcome, record.http_status) == ("error", status)
    assert "scripted failure" in (record.error or "")
    codes = {400: "invalid_request_error", 429: "rate_limited", 500: "upstream_error"}
    assert record.error_code == codes[status]


async def test_retries_of_the_client_are_calls_of_their_own(server: ModelServer) -> None:
    """A client that tries again leaves a record per call that it made."""
    scripted = [Answer(status=500), Answer(status=429), Answer(text="at last")]
    server.script = lambda _: scripted.pop(0)
    async with running(server) as run:
        assert await call(run, max_retries=2) == "at last"
        outcomes = [record.outcome for record in await run.records()]
    assert outcomes == ["error", "error", "ok"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["malformed", "cut", "reset", "hang"])
async def test_broken_answers_are_errors_and_are_recorded(
    server: ModelServer, fault: Fault, stream: bool
) -> None:
    """An answer that stops, breaks or makes no sense is an error to the client, never a short
    success, and is recorded as one.
    """
    server.script = Answer(text="some words to break off within", fault=fault)
    # Long enough for what comes before the answer hangs.
    async with running(server, timeout=2.0 if fault == "hang" else 60.0) as run:
        with pytest.raises(openai.APIError) as caught:
            await call(run, stream=stream)
        record = await run.record()
        assert await calls_of(run) == {"started": 1, "finished": 0, "failed": 1, "cancelled": 0}
    if not stream:
        assert isinstance(caught.value, openai.InternalServerError)
        assert caught.value.status_code == (504 if fault == "hang" else 502)
    assert record.outcome == "error"
    assert record.error
    assert record.error_code == ("timeout" if fault == "hang" else "upstream_error")
    if stream:
        (choice,) = record.choices
        sampled = server.calls[0].token_ids[0]
        assert 0 < len(choice.token_ids) < len(sampled)
        assert choice.token_ids == sampled[: len(choice.token_ids)]
        assert choice.finish_reason is None


async def test_a_broken_stream_has_no_proper_end(server: ModelServer) -> None:
    """A client that ignores error events cannot take a broken stream for a whole one."""
    server.script = Answer(text="some words to break off within", fault="cut")
    body = {"model": "m", "messages": HELLO, "stream": True}
    async with running(server) as run, httpx.AsyncClient() as client:
        seen = b""
        with pytest.raises(httpx.RemoteProtocolError):
            async with client.stream(
                "POST", f"{run.base_url}/chat/completions", json=body
            ) as answer:
                async for piece in answer.aiter_bytes():
                    seen += piece
    assert b'"error"' in seen
    assert b"[DONE]" not in seen
    assert b'"finish_reason":"stop"' not in seen


async def test_a_server_that_is_not_there_is_recorded(server: ModelServer) -> None:
    """A call to a server that refuses connections is a 502 and a record without a status."""
    async with running(server) as run:
        server.stop()
        with pytest.raises(openai.InternalServerError) as caught:
            await call(run)
        record = await run.record()
    assert caught.value.status_code == 502
    assert (record.outcome, record.http_status) == ("error", None)


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_cancels_the_server_and_is_recorded(
    server: ModelServer, stream: bool
) -> None:
    """When a client leaves early, the server's work is cancelled and the record says so."""
    server.script = Answer(text="a long answer to leave early", fault="hang")
    body = {"model": "m", "messages": HELLO, "stream": stream}
    async with running(server, timeout=60) as run:
        async with httpx.AsyncClient() as client:
            calling = asyncio.create_task(
                client.post(f"{run.base_url}/chat/completions", json=body)
            )
            assert await asyncio.to_thread(server.reached.wait, 5)
            if stream:
                await asyncio.sleep(0.05)
            calling.cancel()
            await asyncio.wait([calling])
        assert await calls_of(run) == {"started": 1, "finished": 0, "failed": 0, "cancelled": 1}
        record = await run.record()
        async with asyncio.timeout(5):
            while not server.calls[0].cancelled:
                await asyncio.sleep(0.01)
    assert record.outcome == "cancelled"
    assert record.stream == stream


@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_is_seen_after_the_record_is_stored(
    server: ModelServer, stream: bool
) -> None:
    """When a client sees the end of an answer, its record is in the store already."""
    store = SlowStore(0.2)
    body = {"model": "m", "messages": HELLO, "stream": stream}
    ends = (b'"finish_reason":"stop"', b"[DONE]", b'"message"')
    seen_early = b""
    async with running(server, store) as run, httpx.AsyncClient() as client:
        async with client.stream("POST", f"{run.base_url}/chat/completions", json=body) as answer:
            async for piece in answer.aiter_raw():
                if any(end in piece for end in ends):
                    assert store.stored == 1
                elif not store.stored:
                    seen_early += piece
        assert store.stored == 1
    # The rest of a stream does not wait.
    assert bool(seen_early) == stream


@pytest.mark.parametrize("stream", [False, True])
async def test_no_success_without_a_record(server: ModelServer, stream: bool) -> None:
    """While the store is down calls fail in a way that may be retried; then they succeed."""
    store = DownStore()
    async with running(server, store) as run:
        with pytest.raises(openai.APIError) as caught:
            await call(run, stream=stream)
        if not stream:
            assert isinstance(caught.value, openai.InternalServerError)
            assert caught.value.status_code == 503
            assert caught.value.code == "unavailable"
        assert await run.records() == []
        assert await calls_of(run) == {"started": 1, "finished": 0, "failed": 1, "cancelled": 0}
        assert run.gateway.stats.unrecorded == 1
        store.down = False
        assert await call(run, stream=stream) == "hello"
        assert (await run.record()).outcome == "ok"


async def test_a_store_that_is_down_does_not_hide_the_servers_error(server: ModelServer) -> None:
    """The client is told of the server's failure even if it cannot be recorded."""
    server.script = Answer(status=429)
    async with running(server, DownStore()) as run:
        with pytest.raises(openai.RateLimitError):
            await call(run)
        assert run.gateway.stats.unrecorded == 1


async def test_an_unknown_attempt_is_not_found(server: ModelServer) -> None:
    """A call for ids that the store does not know is a 404, not a success."""
    async with running(server) as run:
        base_url = f"{run.gateway.url}/rollout/ro-none/attempt/at-none/v1"
        with pytest.raises(openai.NotFoundError):
            await call(run, base_url=base_url)
        assert run.gateway.stats.unrecorded == 1


@pytest.mark.parametrize(
    ("content", "code"), [(b"{", 400), (b"[]", 400), (b'{"model": "other"}', 404)]
)
async def test_bad_requests_are_refused_and_recorded(
    server: ModelServer, content: bytes, code: int
) -> None:
    """A body that is no request, or names no known model, never reaches the server."""
    async with running(server) as run:
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"{run.base_url}/chat/completions", content=content)
        record = await run.record()
    assert answer.status_code == code
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert record.outcome == "error"
    assert server.calls == []


class Embedded:
    """An upstream in this process, which may fail like an engine that died."""

    name = "embedded"
    capabilities = UpstreamCapabilities(token_ids=True, logprobs=True)

    def __init__(
        self, at: str, said: list[bytes] | None = None, kind: str = "text/event-stream"
    ) -> None:
        self.at = at
        self.said = said or [b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n']
        self.kind = kind
        self.closed = False

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        if self.at == "send":
            raise EngineDeadError("The engine is dead.")
        headers = {"content-type": self.kind}
        return UpstreamResponse(200, headers, self.pieces(), self.close)

    async def pieces(self) -> AsyncIterator[bytes]:
        for piece in self.said:
            yield piece
        if self.at == "body":
            raise EngineDeadError("The engine is dead.")

    async def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("at", ["send", "body"])
async def test_whatever_an_upstream_raises_is_recorded(at: str) -> None:
    """An error of an embedded engine fails the one call, and is recorded with its name."""
    upstream = Embedded(at)
    store = InMemoryLightningStore()
    rollout = await store.start_rollout(input=1)
    gateway = Gateway(store, models={"m": ModelRoute(upstream=upstream, model="m")})
    await gateway.start()
    run = Running(gateway, store, ModelServer(), rollout.rollout_id, rollout.attempt.attempt_id)
    try:
        with pytest.raises(openai.APIError):
            await call(run, stream=True)
        record = await run.record()
    finally:
        await gateway.stop()
        await store.close()
    assert record.outcome == "error"
    assert "EngineDeadError" in (record.error or "")
    assert upstream.closed == (at == "body")


async def test_lax_streams_are_served(server: ModelServer) -> None:
    """Comments, blank data, foreign events and a missing [DONE] do not break a stream."""
    pieces = [
        b": keep-alive\n\n",
        b"data:\n\n",
        b'data: {"type": "ping"}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}',
    ]
    async with running(server) as run, httpx.AsyncClient() as client:
        run.gateway.set_model("m", ModelRoute(upstream=Embedded("none", pieces), model="m"))
        body = {"model": "m", "messages": HELLO, "stream": True}
        answer = await client.post(f"{run.base_url}/chat/completions", json=body)
        record = await run.record()
    assert answer.content == b"".join(pieces)
    assert (record.outcome, record.choices[0].finish_reason) == ("ok", "stop")
    assert record.choices[0].message == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_within_an_answer_is_recorded_as_one(
    server: ModelServer, stream: bool
) -> None:
    """An error that a server reports under a status of 200 reaches the client and the record."""
    error = b'{"error": {"message": "out of memory", "code": 500}}'
    pieces = [b"data: " + error + b"\n\n", b"data: [DONE]\n\n"] if stream else [error]
    kind = "text/event-stream" if stream else "application/json"
    async with running(server) as run:
        upstream = Embedded("none", pieces, kind)
        run.gateway.set_model("m", ModelRoute(upstream=upstream, model="m"))
        async with httpx.AsyncClient() as client:
            body = {"model": "m", "messages": HELLO, "stream": stream}
            answer = await client.post(f"{run.base_url}/chat/completions", json=body)
        record = await run.record()
    assert answer.content == b"".join(pieces)
    assert (record.outcome, record.error) == ("error", "out of memory")


async def test_leaving_while_the_record_is_written_loses_nothing(server: ModelServer) -> None:
    """A client that hangs up while the store writes leaves the one record of a whole answer."""
    store = SlowStore(0.3)
    body = {"model": "m", "messages": HELLO}
    async with running(server, store) as run:
        async with httpx.AsyncClient() as client:
            calling = asyncio.create_task(
                client.post(f"{run.base_url}/chat/completions", json=body)
            )
            async with asyncio.timeout(30):
                while not store.begun:
                    await asyncio.sleep(0.01)
            calling.cancel()
            await asyncio.wait([calling])
        assert await calls_of(run) == {"started": 1, "finished": 1, "failed": 0, "cancelled": 0}
        record = await run.record()
    assert record.outcome == "ok"
    assert record.choices[0].token_ids == server.calls[0].token_ids[0]
