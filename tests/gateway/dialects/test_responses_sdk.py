"""What OpenAI's client builds on responses: parsed answers, its streams, a loop over tools."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, pydantic_function_tool
from pydantic import BaseModel

from agentlightning.gateway.upstream import UpstreamCapabilities
from tests.gateway.running import running
from tests.support.model_server import Answer, ModelServer

SEARCH: Any = {
    "type": "function",
    "name": "search",
    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
    "strict": False,
}


class City(BaseModel):
    name: str
    people: int


@pytest.mark.parametrize("stream", [False, True])
async def test_parsed_answers(server: ModelServer, stream: bool) -> None:
    """A schema for the answer reaches the server, and the client parses what it says."""
    server.script = Answer(text='{"name": "Köln", "people": 1}', reasoning="Hm")
    async with running(server) as run, run.client() as client:
        if stream:
            async with client.responses.stream(model="m", input="hi", text_format=City) as events:
                response = await events.get_final_response()
        else:
            response = await client.responses.parse(model="m", input="hi", text_format=City)
    assert response.output_parsed == City(name="Köln", people=1)
    wanted = server.calls[0].request["response_format"]
    assert wanted["type"] == "json_schema"
    assert wanted["json_schema"]["strict"] is True
    assert wanted["json_schema"]["schema"]["properties"]["people"]["type"] == "integer"


async def test_parsed_tools_go_back(server: ModelServer) -> None:
    """What the client adds to the calls that it parses is no obstacle when they come back."""
    tool: Any = pydantic_function_tool(City)
    flat: Any = {"type": "function", **tool["function"]}
    server.script = Answer(text="", tools=[("City", '{"name": "x", "people": 2}')])
    async with running(server) as run, run.client() as client:
        response = await client.responses.parse(model="m", input="hi", tools=[flat])
        (call,) = response.output
        assert call.type == "function_call"
        assert call.to_dict()["parsed_arguments"] == {"name": "x", "people": 2}
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "ok"}
        again: Any = [{"role": "user", "content": "hi"}, call.to_dict(), result]
        await client.responses.create(model="m", input=again, tools=[flat])
        recorded = (await run.records())[0].choices[0].message
    assert server.calls[1].request["messages"][1] == recorded
    assert server.calls[0].request["tools"] == [tool]


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_loop_over_tools(server: ModelServer, stream: bool, by_id: bool) -> None:
    """An agent of a few lines runs to its end, calls with broken arguments included."""
    calls = [("search", '{"q": "é"}'), ("search", '{"q": ')]

    def script(request: dict[str, Any]) -> Answer:
        done = request["messages"][-1]["role"] == "tool"
        return Answer(text="done") if done else Answer(text="Hm", tools=calls, interleaved=True)

    server.script = script
    asked: list[str] = []
    items: list[Any] = [{"role": "user", "content": "hi"}]
    more: dict[str, Any] = {}
    async with running(server) as run, run.client() as client:
        while True:
            response = await respond(client, stream, input=items, tools=[SEARCH], **more)
            results = [
                {
                    "type": "function_call_output",
                    "call_id": it.call_id,
                    "output": run_tool(it, asked),
                }
                for it in response.output
                if it.type == "function_call"
            ]
            if not results:
                break
            more = {"previous_response_id": response.id} if by_id else {}
            items = results if by_id else [*items, *response.output, *results]
        records = await run.records()
    assert response.output_text == "done"
    assert asked == ["é"]
    told = server.calls[-1].request["messages"]
    assert told[1] == records[0].choices[0].message
    assert [it["role"] for it in told] == ["user", "assistant", "tool", "tool"]
    assert told[3]["content"].startswith("Error: ")


async def respond(client: AsyncOpenAI, stream: bool, **options: Any) -> Any:
    if not stream:
        return await client.responses.create(model="m", **options)
    async with client.responses.stream(model="m", **options) as events:
        return await events.get_final_response()


def run_tool(call: Any, asked: list[str]) -> str:
    try:
        question = json.loads(call.arguments)["q"]
    except ValueError as error:
        return f"Error: {error}"
    asked.append(question)
    return f"found {question}"


async def test_servers_without_ids_in_streams(server: ModelServer) -> None:
    """A server that tells ids outside of streams only is asked so; the client gets its stream."""
    capabilities = UpstreamCapabilities(token_ids=True, logprobs=True, token_ids_in_streams=False)
    tools = [("search", '{"q":  1}'), ("search", "{}")]
    server.script = Answer(text="a\nb", reasoning="Hm", tools=tools, cached_tokens=2)
    async with running(server, capabilities=capabilities) as run, run.client() as client:
        response = await respond(client, stream=True, input="hi")
        record = await run.record()
    (call,) = server.calls
    assert not call.request["stream"]
    kinds = ["reasoning", "message", "function_call", "function_call"]
    assert [item.type for item in response.output] == kinds
    assert response.usage.input_tokens_details.cached_tokens == 2
    assert response.usage.output_tokens == len(call.token_ids[0])
    assert record.choices[0].token_ids == call.token_ids[0]


async def test_errors_of_the_gateway(server: ModelServer) -> None:
    """What the gateway refuses is said in OpenAI's shape, and recorded."""
    async with running(server, secret="secret") as run:
        async with run.client() as client:
            with pytest.raises(openai.AuthenticationError):
                await respond(client, stream=False, input="hi")
        async with run.client(api_key="secret") as client:
            with pytest.raises(openai.NotFoundError, match="unknown"):
                await client.responses.create(model="unknown", input="hi")
            with pytest.raises(openai.BadRequestError, match="web_search"):
                tools: Any = [{"type": "web_search"}]
                await respond(client, stream=True, input="hi", tools=tools)
        records = await run.records()
    assert [record.outcome for record in records] == ["error", "error"]
    assert server.calls == []
