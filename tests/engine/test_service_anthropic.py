"""Anthropic's client in front of the embedded engine, through a gateway."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import LoadedModel
from agentlightning.types.call import CallRecord
from tests.engine.serving import ServedEngine, serve_engine
from tests.support.scripted_model import teach

TOOL: Any = {"name": "red", "description": "Reds.", "input_schema": {"type": "object"}}
CALL = '<tool_call>\n{"name": "red", "arguments": {"x":  "é"}}\n</tool_call>'
ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 40,
    "system": "Be odd.",
    "messages": [{"role": "user", "content": "héllo"}],
}


@dataclass
class Served:
    """A client, and the calls that it made."""

    client: AsyncAnthropic
    run: ServedEngine

    async def records(self) -> list[CallRecord]:
        """Return the recorded calls."""
        return await self.run.records()


@asynccontextmanager
async def served(engine: Engine) -> AsyncGenerator[Served]:
    async with (
        serve_engine(engine) as run,
        AsyncAnthropic(base_url=run.url, api_key="key", max_retries=0) as client,
    ):
        yield Served(client, run)


async def test_streamed_whole_and_recorded_agree(engine: Engine) -> None:
    """What a random model says, half characters included, is the same in all three."""
    async with served(engine) as run:
        for seed in range(6):
            options = {**ASK, "extra_body": {"seed": seed}}
            whole = await run.client.messages.create(**options)
            async with run.client.messages.stream(**options) as stream:
                told = "".join([text async for text in stream.text_stream])
                streamed = await stream.get_final_message()
            text = "".join(block.text for block in whole.content if block.type == "text")
            assert told == text
            assert [block.type for block in streamed.content] == ["text"]
            assert streamed.stop_reason == whole.stop_reason
            assert streamed.usage.output_tokens == whole.usage.output_tokens
            one, other = (await run.records())[-2:]
            for record in (one, other):
                (choice,) = record.choices
                assert (choice.message or {})["content"] == text
                assert len(choice.token_ids) == len(choice.logprobs) == whole.usage.output_tokens
                counts = streamed.usage
                prompt = counts.input_tokens + (counts.cache_read_input_tokens or 0)
                assert len(record.prompt_token_ids) == prompt
            assert one.choices[0].token_ids == other.choices[0].token_ids
            assert one.prompt_token_ids == other.prompt_token_ids


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_conversation_is_one_sequence(
    tiny: LoadedModel, make_engine: Callable[..., Engine], stream: bool
) -> None:
    """A tool's result goes back behind the very tokens that were sampled to call it."""
    engine = make_engine(teach(tiny, f"Hm.{CALL}"))
    messages: list[Any] = list(ASK["messages"])
    async with served(engine) as run:
        for _ in range(2):
            options = {**ASK, "messages": messages, "max_tokens": 80, "tools": [TOOL]}
            if stream:
                async with run.client.messages.stream(**options) as events:
                    message = await events.get_final_message()
            else:
                message = await run.client.messages.create(**options)
            text, call = message.content
            assert (message.stop_reason, text.to_dict()["text"]) == ("tool_use", "Hm.")
            assert call.type == "tool_use"
            assert (call.name, call.input) == ("red", {"x": "é"})
            result = {"type": "tool_result", "tool_use_id": call.id, "content": "done"}
            messages += [
                {"role": "assistant", "content": message.content},
                {"role": "user", "content": [result]},
            ]
        first, second = await run.records()
    sampled = first.choices[0].token_ids
    so_far = [*first.prompt_token_ids, *sampled]
    assert second.prompt_token_ids[: len(so_far)] == so_far
    (call,) = (first.choices[0].message or {})["tool_calls"]
    assert call["function"]["arguments"] == '{"x":  "é"}'


@pytest.mark.parametrize("stream", [False, True])
async def test_a_required_call_is_made(
    tiny: LoadedModel, make_engine: Callable[..., Engine], stream: bool
) -> None:
    """`any` begins the call for the model, and the whole call comes back."""
    begun = '<tool_call>\n{"name": "red", "arguments":'
    engine = make_engine(teach(tiny, CALL.removeprefix(begun)))
    options = {**ASK, "max_tokens": 80, "tools": [TOOL], "tool_choice": {"type": "any"}}
    async with served(engine) as run:
        if stream:
            async with run.client.messages.stream(**options) as events:
                message = await events.get_final_message()
        else:
            message = await run.client.messages.create(**options)
    (call,) = message.content
    assert call.type == "tool_use"
    assert (call.name, call.input, message.stop_reason) == ("red", {"x": "é"}, "tool_use")


@pytest.mark.parametrize("stream", [False, True])
async def test_stop_sequences(
    tiny: LoadedModel, make_engine: Callable[..., Engine], stream: bool
) -> None:
    """The sequence that ended an answer is named, and none where the model came to its end."""
    engine = make_engine(teach(tiny, "one END two"))
    async with served(engine) as run:
        options = {**ASK, "stop_sequences": ["STOP", "END"]}
        if stream:
            async with run.client.messages.stream(**options) as events:
                message = await events.get_final_message()
        else:
            message = await run.client.messages.create(**options)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    assert message.content[0].to_dict()["text"] == "one "


async def test_tokens_are_counted(engine: Engine) -> None:
    """The count of a prompt is the number of ids that a call with it is given."""
    async with served(engine) as run:
        options: dict[str, Any] = {key: ASK[key] for key in ("model", "system", "messages")}
        counted = await run.client.messages.count_tokens(**options, tools=[TOOL])
        await run.client.messages.create(**options, tools=[TOOL], max_tokens=1)
        (record,) = await run.records()
    assert counted.input_tokens == len(record.prompt_token_ids) > 0


async def test_tokens_of_a_conversation_are_counted_as_sampled(engine: Engine) -> None:
    """A later prompt is counted with the ids that were sampled, as the next call has it."""
    async with served(engine) as run:
        options: dict[str, Any] = {key: ASK[key] for key in ("model", "system")}
        first = await run.client.messages.create(**options, messages=ASK["messages"], max_tokens=9)
        said: Any = [block.to_dict() for block in first.content]
        more = [{"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}]
        options["messages"] = [*ASK["messages"], *more]
        counted = await run.client.messages.count_tokens(**options)
        await run.client.messages.create(**options, max_tokens=1)
        before, after = await run.records()
    sampled = before.prompt_token_ids + before.choices[0].token_ids
    assert after.prompt_token_ids[: len(sampled)] == sampled
    assert counted.input_tokens == len(after.prompt_token_ids)


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "absent"}},
        {"messages": [{"role": "user", "content": "x" * 600}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "url", "url": "http://x/y"}}],
                }
            ]
        },
    ],
)
async def test_what_the_engine_cannot_do(engine: Engine, options: dict[str, Any]) -> None:
    """What the engine refuses reaches the client as its own kind of error."""
    async with served(engine) as run:
        with pytest.raises(anthropic.BadRequestError, match="invalid_request_error"):
            await run.client.messages.create(**{**ASK, **options})
