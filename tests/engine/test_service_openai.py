"""OpenAI's client in front of the embedded engine, through a gateway: responses, completions."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from agentlightning.adapter.token_tree import build_token_rows
from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import LoadedModel
from agentlightning.types.call import CallRecord
from tests.engine.serving import ServedEngine, serve_engine
from tests.support.scripted_model import teach

TOOL: Any = {
    "type": "function",
    "name": "red",
    "description": "Reds.",
    "parameters": {"type": "object"},
    "strict": False,
}
CALL = '<tool_call>\n{"name": "red", "arguments": {"x":  "é"}}\n</tool_call>'
ASK: dict[str, Any] = {
    "model": "m",
    "max_output_tokens": 40,
    "instructions": "Be odd.",
    "input": "héllo",
}


@dataclass
class Served:
    """A client, and the calls that it made."""

    client: AsyncOpenAI
    run: ServedEngine

    async def respond(self, stream: bool, **options: Any) -> Any:
        """Return a response, whole or as the events of a stream end it."""
        if not stream:
            return await self.client.responses.create(**{**ASK, **options})
        async with self.client.responses.stream(**{**ASK, **options}) as events:
            return await events.get_final_response()

    async def records(self) -> list[CallRecord]:
        """Return the recorded calls."""
        return await self.run.records()


@asynccontextmanager
async def served(engine: Engine) -> AsyncGenerator[Served]:
    async with serve_engine(engine) as run:
        url = f"{run.url}/v1"
        async with AsyncOpenAI(base_url=url, api_key="key", max_retries=0) as client:
            yield Served(client, run)


async def test_responses_streamed_whole_and_recorded_agree(engine: Engine) -> None:
    """What a random model says, half characters included, is the same in all three."""
    async with served(engine) as run:
        for seed in range(4):
            options = {"extra_body": {"seed": seed}}
            whole = await run.respond(False, **options)
            incomplete = whole.status == "incomplete"
            told: list[str] = []
            stream = await run.client.responses.create(**ASK, **options, stream=True)
            last: Any = None
            async for last in stream:
                if last.type == "response.output_text.delta":
                    told.append(last.delta)
            streamed = last.response
            assert "".join(told) == streamed.output_text == whole.output_text
            assert (streamed.status == "incomplete") == incomplete
            assert streamed.usage.total_tokens == whole.usage.total_tokens
            one, other = (await run.records())[-2:]
            for record in (one, other):
                (choice,) = record.choices
                assert (choice.message or {})["content"] == whole.output_text
                assert len(choice.token_ids) == len(choice.logprobs) == whole.usage.output_tokens
                assert len(record.prompt_token_ids) == whole.usage.input_tokens
            assert one.choices[0].token_ids == other.choices[0].token_ids


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_tool_conversation_is_one_sequence(
    tiny: LoadedModel, make_engine: Callable[..., Engine], stream: bool, by_id: bool
) -> None:
    """A tool's result goes back behind the very tokens that were sampled to call it."""
    engine = make_engine(teach(tiny, f"Hm.{CALL}"))
    items: list[Any] = [{"role": "user", "content": "héllo"}]
    previous: dict[str, Any] = {}
    async with served(engine) as run:
        for _ in range(3):
            response = await run.respond(
                stream, input=items, tools=[TOOL], max_output_tokens=80, **previous
            )
            message, call = response.output
            assert message.content[0].text == "Hm."
            assert (call.name, call.arguments) == ("red", '{"x":  "é"}')
            result = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
            if by_id:
                items, previous = [result], {"previous_response_id": response.id}
            else:
                items += [*response.output, result]
        records = await run.records()
    rows, report = build_token_rows(records)
    assert len(rows) == 1
    assert not report.forks
    assert int(rows[0].mask.sum()) == sum(len(record.choices[0].token_ids) for record in records)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_required_call_is_made(
    tiny: LoadedModel, make_engine: Callable[..., Engine], stream: bool
) -> None:
    """A first call that must be made and a second that may be are one row of sampled tokens."""
    begun = '<tool_call>\n{"name": "red", "arguments":'
    engine = make_engine(teach(tiny, CALL.removeprefix(begun), CALL))
    items: list[Any] = [{"role": "user", "content": "héllo"}]
    choice: Any = {"type": "function", "name": "red"}
    async with served(engine) as run:
        for asked in (choice, "auto"):
            response = await run.respond(
                stream, input=items, tools=[TOOL], tool_choice=asked, max_output_tokens=80
            )
            call = response.output[-1]
            assert (call.type, call.name, call.arguments) == ("function_call", "red", '{"x":  "é"}')
            result = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
            items += [*response.output, result]
        records = await run.records()
    rows, report = build_token_rows(records)
    assert len(rows) == 1
    assert not report.forks
    assert int(rows[0].mask.sum()) == sum(len(record.choices[0].token_ids) for record in records)
    begun_ids = tiny.tokenizer(begun)["input_ids"]
    assert records[0].prompt_token_ids[-len(begun_ids) :] == begun_ids


async def test_completions_are_recorded_with_their_own_prompts(engine: Engine) -> None:
    """Choices of several prompts are trained behind the prompt that each answers."""
    options: dict[str, Any] = {"model": "m", "max_tokens": 5, "seed": 3, "n": 2}
    async with served(engine) as run:
        for prompt in (["hé", "other"], [[70, 71], [72]], "hé", [70, 71]):
            whole = await run.client.completions.create(**options, prompt=prompt)
            told: dict[int, str] = {}
            stream = await run.client.completions.create(**options, prompt=prompt, stream=True)
            async for chunk in stream:
                for choice in chunk.choices:
                    told[choice.index] = told.get(choice.index, "") + choice.text
            assert told == {choice.index: choice.text for choice in whole.choices}
            assert whole.choices[0].logprobs is None
            one, other = (await run.records())[-2:]
            assert [c.model_dump() for c in one.choices] == [c.model_dump() for c in other.choices]
            texts = [(choice.message or {})["content"] for choice in one.choices]
            assert texts == [choice.text for choice in whole.choices]
            assert one.missing == other.missing == []
        records = await run.records()
    texts, ids = records[0].by_prompt()
    assert ids.prompt_token_ids == list(b"other") or len(ids.prompt_token_ids) == 5
    assert len(texts.choices) == len(ids.choices) == 2
    second = records[2].by_prompt()
    assert [part.prompt_token_ids for part in second] == [[70, 71], [72]]
    rows, _ = build_token_rows(records[2:3])
    assert sorted(row.ids.tolist()[: row.mask.tolist().index(True)] for row in rows) == [
        *([[70, 71]] * 2),
        *([[72]] * 2),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "absent"}},
        {"input": "x" * 600},
        {"text": {"format": {"type": "json_object"}}},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
    ],
)
async def test_what_the_engine_cannot_do(engine: Engine, options: dict[str, Any]) -> None:
    """What the engine refuses reaches the client as its own kind of error."""
    async with served(engine) as run:
        with pytest.raises(openai.BadRequestError) as caught:
            await run.respond(False, **options)
        assert caught.value.type == "invalid_request_error"
        with pytest.raises(openai.BadRequestError):
            await run.respond(True, **options)
