"""The engine behind the gateway's upstream protocol."""

import json
from typing import Any

import pytest

from agentlightning.engine.engine import Engine
from agentlightning.engine.service import EngineUpstream
from agentlightning.gateway.upstream import Upstream, UpstreamRequest, UpstreamResponse

BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 6, "seed": 2}


@pytest.fixture
def upstream(engine: Engine) -> Upstream:
    return EngineUpstream(engine, model="tiny")


async def post(
    upstream: Upstream,
    body: Any,
    path: str = "/v1/chat/completions",
    conversation: str | None = None,
) -> UpstreamResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = UpstreamRequest(
        method="POST", path=path, headers={}, body=raw, conversation=conversation
    )
    return await upstream.send(request)


async def test_whole_answer_is_json(upstream: Upstream) -> None:
    """A completion is a 200 with a JSON body."""
    response = await post(upstream, {**BODY, "return_token_ids": True})
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    answer = json.loads(await response.read())
    assert answer["choices"][0]["token_ids"]
    await response.aclose()


async def test_stream_is_server_sent_events(upstream: Upstream) -> None:
    """A stream is events with `[DONE]` last, and says what the whole answer says."""
    whole = json.loads(await (await post(upstream, BODY)).read())
    response = await post(upstream, {**BODY, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = (await response.read()).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    await response.aclose()


async def test_closing_the_answer_cancels_the_generation(
    upstream: Upstream, engine: Engine
) -> None:
    """After `aclose` in the middle, nothing runs any more."""
    response = await post(upstream, {**BODY, "stream": True, "max_tokens": 400, "ignore_eos": True})
    await anext(response.body)
    await anext(response.body)
    await response.aclose()
    await (await post(upstream, {**BODY, "max_tokens": 1})).read()
    assert engine.stats().running == 0
    assert engine.stats().sampled_tokens < 400


async def test_models_are_listed(upstream: Upstream) -> None:
    """The one model is listed with its context length."""
    request = UpstreamRequest(method="GET", path="/v1/models", headers={})
    listed = json.loads(await (await upstream.send(request)).read())
    assert [(card["id"], card["max_model_len"]) for card in listed["data"]] == [("tiny", 512)]


async def test_prompts_are_tokenised(upstream: Upstream) -> None:
    """A prompt's ids are the ones that a completion of it is given, tools included."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    body = {**BODY, "tools": tools, "return_token_ids": True}
    answer = json.loads(await (await post(upstream, body)).read())
    counted = json.loads(await (await post(upstream, body, "/tokenize")).read())
    ids = answer["prompt_token_ids"]
    assert counted == {"count": len(ids), "max_model_len": 512, "tokens": ids}
    long = {"messages": [{"role": "user", "content": "x" * 600}]}
    assert json.loads(await (await post(upstream, long, "/tokenize")).read())["count"] > 600


async def test_a_known_conversation_is_tokenised_as_it_was_sampled(upstream: Upstream) -> None:
    """Told the attempt, the ids hold the sampled ones; nothing is counted as a prompt."""
    assert isinstance(upstream, EngineUpstream)
    body = {**BODY, "return_token_ids": True}
    answer = json.loads(await (await post(upstream, body, conversation="r/a")).read())
    said = answer["choices"][0]
    turn = {"messages": [*BODY["messages"], said["message"], *BODY["messages"]]}
    counted = json.loads(await (await post(upstream, turn, "/tokenize", "r/a")).read())
    exact = [*answer["prompt_token_ids"], *said["token_ids"]]
    assert counted["tokens"][: len(exact)] == exact
    assert upstream.history_stats().prompts == {"first": 1}


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [
        (BODY, "/v1/embeddings", 404),
        ({"messages": []}, "/tokenize", 400),
        (b"{", "/v1/chat/completions", 400),
        ({**BODY, "n": 0}, "/v1/chat/completions", 400),
        ({**BODY, "n": 0, "stream": True}, "/v1/chat/completions", 400),
        (
            {**BODY, "messages": [{"role": "user", "content": "x" * 600}]},
            "/v1/chat/completions",
            400,
        ),
    ],
)
async def test_mistakes_are_answers_in_openai_shape(
    upstream: Upstream, body: Any, path: str, status: int
) -> None:
    """Unknown paths, broken JSON, bad fields and long prompts get a status and an error body."""
    response = await post(upstream, body, path)
    error = json.loads(await response.read())["error"]
    assert response.status == status
    assert set(error) == {"message", "type", "param", "code"}
    if "x" * 600 in str(body):
        assert error["code"] == "context_length_exceeded"


async def test_a_stopped_engine_is_unavailable(upstream: Upstream, engine: Engine) -> None:
    """Without a running engine calls get 503, so that clients retry."""
    engine.stop()
    for stream in (False, True):
        response = await post(upstream, {**BODY, "stream": stream})
        assert response.status == 503
        assert json.loads(await response.read())["error"]["type"] == "server_error"


async def test_an_engine_that_stops_midway_breaks_the_stream_off(
    upstream: Upstream, engine: Engine
) -> None:
    """A broken stream ends with an error event and without `[DONE]`."""
    response = await post(upstream, {**BODY, "stream": True, "max_tokens": 400, "ignore_eos": True})
    await anext(response.body)
    await anext(response.body)
    engine.stop()
    rest = await response.read()
    assert b"[DONE]" not in rest
    assert b'"error"' in rest
