"""Chat completions, whole and streamed."""

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning.engine.chat import ChatService
from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import LoadedModel
from agentlightning.errors import ContextLengthError, EngineError, RequestError
from tests.support.chat_answer import comparable, joined, whole
from tests.support.scripted_model import teach

USER = [{"role": "user", "content": "héllo"}]
BASE = {"messages": USER, "max_tokens": 24, "seed": 1, "return_token_ids": True, "logprobs": True}


@pytest.fixture
def chat(engine: Engine) -> ChatService:
    return ChatService(engine, model="tiny")


async def collect(chat: ChatService, body: dict[str, Any]) -> list[dict[str, Any]]:
    return [chunk async for chunk in chat.stream({**body, "stream": True})]


async def test_answer_has_the_shape_of_openai_with_tokens(chat: ChatService) -> None:
    """Ids, log-probabilities, usage and version describe the same sampled tokens."""
    answer = await chat.complete({**BASE, "n": 2, "top_logprobs": 3, "model": "alias"})
    assert (answer["object"], answer["model"], answer["weight_version"]) == (
        "chat.completion",
        "alias",
        0,
    )
    tokenizer = chat.engine.tokenizer
    assert tokenizer.decode(answer["prompt_token_ids"]) == (
        "<|im_start|>user\nhéllo<|im_end|>\n<|im_start|>assistant\n"
    )
    for choice in answer["choices"]:
        entries = choice["logprobs"]["content"]
        assert len(entries) == len(choice["token_ids"])
        assert all(len(entry["top_logprobs"]) == 3 for entry in entries)
        shown = [i for i in choice["token_ids"] if i not in chat.engine.eos_ids]
        text = tokenizer.decode(shown, skip_special_tokens=True)
        assert choice["message"]["content"] == text
        assert "token_versions" not in choice
    first, second = (choice["token_ids"] for choice in answer["choices"])
    assert first != second
    usage = answer["usage"]
    assert usage["completion_tokens"] == len(first) + len(second)
    assert usage["prompt_tokens"] == len(answer["prompt_token_ids"])
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_unasked_fields_stay_away(chat: ChatService) -> None:
    """Without asking there are no ids, versions or log-probabilities."""
    answer = await chat.complete({"messages": USER, "max_tokens": 2})
    assert not {"prompt_token_ids", "weight_version"} & set(answer)
    assert "token_ids" not in answer["choices"][0]
    assert answer["choices"][0]["logprobs"] is None
    assert answer["model"] == "tiny"


async def test_a_second_turn_is_served_from_the_prefix_cache(chat: ChatService) -> None:
    """A follow-up tells in its usage how many prompt tokens were cached."""
    long = [{"role": "user", "content": "word " * 12}]
    first = await chat.complete({**BASE, "messages": long})
    turn = [*long, first["choices"][0]["message"], *USER]
    second = await chat.complete({**BASE, "messages": turn})
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64


async def test_stream_starts_with_the_prompt_and_ends_with_usage(chat: ChatService) -> None:
    """Prompt ids come in the first chunk only, usage in a last one without choices."""
    chunks = await collect(chat, {**BASE, "stream_options": {"include_usage": True}})
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[0]["prompt_token_ids"]
    assert chunks[0]["weight_version"] == 0
    assert not any("prompt_token_ids" in chunk for chunk in chunks[1:])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(joined(chunks)["token_ids"])
    assert len({chunk["id"] for chunk in chunks}) == 1


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.text(max_size=10),
    seed=st.integers(0, 99),
    n=st.integers(1, 2),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    stop=st.sampled_from([None, "a", ["\ufffd", "é", "ab"], " "]),
)
def test_stream_equals_the_whole_answer(
    engine: Engine, content: str, seed: int, n: int, temperature: float, stop: Any
) -> None:
    """Joined deltas equal the unstreamed content byte for byte, tokens and all."""
    chat = ChatService(engine, model="tiny")
    body = {
        **BASE,
        "messages": [{"role": "user", "content": content}],
        "seed": seed,
        "n": n,
        "temperature": temperature,
        "stop": stop,
    }

    async def both() -> tuple[Any, Any]:
        return await chat.complete(body), await collect(chat, body)

    answer, chunks = asyncio.run(both())
    for index in range(n):
        assert comparable(joined(chunks, index)) == comparable(whole(answer, index))


async def test_a_stop_string_ends_the_completion_early(chat: ChatService) -> None:
    """The content ends before the stop string, which is named, and sampling ends with the token
    that closed it.
    """
    free = await chat.complete({**BASE, "ignore_eos": True})
    text = free["choices"][0]["message"]["content"]
    stop = text[2:4]
    answer = await chat.complete({**BASE, "ignore_eos": True, "stop": [stop]})
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == stop
    assert choice["message"]["content"] == text[: text.index(stop)]
    ids = choice["token_ids"]
    assert ids == free["choices"][0]["token_ids"][: len(ids)]
    assert len(ids) < 24


TOOLS = [{"type": "function", "function": {"name": "red", "parameters": {"type": "object"}}}]
CALL = '<tool_call>\n{"name": "red", "arguments": {"x":  1}}\n</tool_call>'


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_are_parsed(
    tiny: LoadedModel, make_engine: Callable[..., Engine], stream: bool
) -> None:
    """A call in the template's format becomes `tool_calls`, the text before it stays content."""
    chat = ChatService(make_engine(teach(tiny, f"Hm.{CALL}")), model="m")
    body = {**BASE, "tools": TOOLS, "max_tokens": 80}
    if stream:
        chunks = await collect(chat, body)
        choice = joined(chunks)
        assert [c["index"] for c in choice["calls"]] == [0]
        assert not any("tool_call" in json.dumps(c["choices"][0]["delta"]) for c in chunks[:-1])
    else:
        choice = whole(await chat.complete(body))
    assert choice["content"] == "Hm."
    assert choice["finish_reason"] == "tool_calls"
    assert choice["calls"][0]["function"] == {"name": "red", "arguments": '{"x":  1}'}
    assert choice["calls"][0]["id"].startswith("call_")
    assert choice["token_ids"][-1] == tiny.tokenizer.eos_token_id


@pytest.mark.parametrize("extra", [{"tool_choice": "none", "tools": TOOLS}, {}])
async def test_without_tools_the_call_stays_text(
    tiny: LoadedModel, make_engine: Callable[..., Engine], extra: dict[str, Any]
) -> None:
    """With tool_choice none, or without tools, what looks like a call is content."""
    chat = ChatService(make_engine(teach(tiny, CALL)), model="m")
    choice = whole(await chat.complete({**BASE, **extra, "max_tokens": 80}))
    assert (choice["content"], choice["calls"]) == (CALL, [])
    assert choice["finish_reason"] == "stop"


async def test_tokens_tell_their_version_when_it_changes(chat: ChatService) -> None:
    """A completion across a weight change has one version per token, streamed or not."""
    engine = chat.engine
    body = {**BASE, "max_tokens": 200, "ignore_eos": True}
    tasks = [asyncio.create_task(chat.complete(body)), asyncio.create_task(collect(chat, body))]
    while engine.stats().running < 2 or engine.stats().sampled_tokens < 20:
        await asyncio.sleep(0)
    await engine.pause(mode="keep")
    engine.set_version(4)
    engine.resume()
    answer, chunks = await tasks[0], await tasks[1]
    versions = answer["choices"][0]["token_versions"]
    assert answer["weight_version"] == 0
    assert versions == sorted(versions)
    assert set(versions) == {0, 4}
    assert len(versions) == 200
    streamed = [
        version
        for chunk in chunks
        for choice in chunk["choices"]
        for version in choice.get("token_versions", [0] * len(choice.get("token_ids", [])))
    ]
    assert set(streamed) == {0, 4}
    assert len(streamed) == 200


async def test_closing_a_stream_cancels_its_completions(chat: ChatService) -> None:
    """When the reader goes away, nothing is sampled for it any more."""
    stream = chat.stream({**BASE, "max_tokens": 400, "ignore_eos": True, "n": 3})
    async for chunk in stream:
        if chunk["choices"][0].get("token_ids"):
            break
    await stream.aclose()
    await chat.complete({"messages": USER, "max_tokens": 1})
    stats = chat.engine.stats()
    assert stats.running == 0
    assert stats.sampled_tokens < 1200


async def test_wrong_requests_raise_before_anything_is_sampled(
    make_engine: Callable[..., Engine],
) -> None:
    """A prompt beyond the context and a bad field are refused, by a stream at its first chunk."""
    chat = ChatService(make_engine(max_context=16), model="m")
    with pytest.raises(ContextLengthError):
        await chat.complete(BASE)
    with pytest.raises(ContextLengthError):
        await anext(chat.stream(BASE))
    with pytest.raises(RequestError):
        await anext(chat.stream({**BASE, "n": 0}))
    assert chat.engine.stats().sampled_tokens == 0


async def test_a_stopped_engine_is_an_error_not_an_answer(chat: ChatService) -> None:
    """Completions cut off by `stop` raise instead of passing for finished ones."""
    task = asyncio.create_task(chat.complete({**BASE, "max_tokens": 400, "ignore_eos": True}))
    while not chat.engine.stats().running:
        await asyncio.sleep(0)
    await asyncio.to_thread(chat.engine.stop)
    with pytest.raises(EngineError):
        await task


async def test_the_template_is_examined_at_start(
    tiny: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    """What the template does to histories is logged, and a warning names what cannot be kept."""
    engine = Engine(tiny.model, copy.copy(tiny.tokenizer))
    with caplog.at_level("INFO", "agentlightning.engine.chat"):
        ChatService(engine, model="m")
        assert caplog.records[-1].append_safe
        engine.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}{% endfor %}"
        ChatService(engine, model="m", history="template")
        assert not caplog.records[-1].can_splice
        ChatService(engine, model="m")
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "INFO", "WARNING"]
    assert "plain" in caplog.records[-1].conversations


async def test_each_choice_can_be_continued(chat: ChatService) -> None:
    """Whole or streamed, the answer that comes back is repeated token for token."""
    body = {**BASE, "n": 2, "temperature": 1.0}
    answer = await chat.complete(body, conversation="a")
    chunks = [chunk async for chunk in chat.stream(body, conversation="b")]
    said = {
        "a": [(c["message"]["content"], c["token_ids"]) for c in answer["choices"]],
        "b": [(joined(chunks, i)["content"], joined(chunks, i)["token_ids"]) for i in range(2)],
    }
    for conversation, choices in said.items():
        for content, ids in choices:
            turn = [*USER, {"role": "assistant", "content": content}, *USER]
            asked = {**BASE, "messages": turn, "max_tokens": 1}
            then = await chat.complete(asked, conversation=conversation)
            exact = [*answer["prompt_token_ids"], *ids]
            assert then["prompt_token_ids"][: len(exact)] == exact
    assert chat.history.stats().prompts == {"first": 2, "spliced": 4}


async def test_a_history_that_no_longer_fits_is_rendered_shorter(
    tiny: LoadedModel, make_engine: Callable[..., Engine]
) -> None:
    """Where only the exact prompt is too long, the call is served all the same."""
    thought = "<think>" + "so " * 20 + "</think>A"
    engine = make_engine(teach(tiny, thought), max_context=130)
    engine.tokenizer = copy.copy(tiny.tokenizer)
    engine.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
    )
    chat = ChatService(engine, model="m")
    first = await chat.complete({**BASE, "max_tokens": 100}, conversation="c")
    long = {"role": "user", "content": "x" * 50}
    turn = [*USER, first["choices"][0]["message"], long]
    then = await chat.complete({**BASE, "messages": turn, "max_tokens": 1}, conversation="c")
    assert len(then["prompt_token_ids"]) < 70
    assert chat.history.stats().causes == {"length": 1}
