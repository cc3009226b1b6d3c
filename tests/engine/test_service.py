"""The engine behind the gateway's upstream protocol."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import LoadedModel
from agentlightning.engine.service import EngineUpstream
from agentlightning.gateway.upstream import Upstream, UpstreamRequest, UpstreamResponse
from tests.engine.test_adapters import add_adapter

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


async def test_a_role_chooses_the_adapter_unless_the_model_name_does(
    tiny: LoadedModel, make_engine: Callable[..., Engine]
) -> None:
    """Each agent of a system is sampled with its own adapter, agents without one with the base."""
    model: Any = copy.deepcopy(tiny.model)
    for name in ("a", "b"):
        add_adapter(model, name, ord(name))
    engine = make_engine(model)
    upstream = EngineUpstream(
        engine, model="tiny", adapters=("a", "b"), roles={"a": "plan", "b": "^critic$"}
    )

    async def told(role: str | None, model: str = "tiny", path: str = "chat/completions") -> Any:
        body = {**BODY, "model": model, "prompt": "x", "return_token_ids": True, "temperature": 0}
        request = UpstreamRequest(
            method="POST", path=f"/v1/{path}", headers={}, body=json.dumps(body).encode(), role=role
        )
        response = await upstream.send(request)
        (choice,) = json.loads(await response.read())["choices"]
        await response.aclose()
        return choice["token_ids"]

    a, b, base = [await told(None, name) for name in ("a", "b", "tiny")]
    assert a != b != base != a
    assert [await told(role) for role in ("planner", "critic", "critics", None)] == [
        a,
        b,
        base,
        base,
    ]
    assert await told("critic", "tiny:a") == a
    plain = [await told(role, path="completions") for role in ("planner", None)]
    assert plain[0] != plain[1]
    cards = json.loads(await (await get_models(upstream)).read())["data"]
    assert [(card["id"], card.get("parent")) for card in cards] == [
        ("tiny", None), ("a", "tiny"), ("b", "tiny"),
    ]  # fmt: skip


async def get_models(upstream: EngineUpstream) -> UpstreamResponse:
    return await upstream.send(UpstreamRequest(method="GET", path="/v1/models", headers={}))
