"""What Anthropic's client builds on messages: its tool loop, parsed answers, other servers."""

import json
from dataclasses import replace
from typing import Any

import pytest
from anthropic import AsyncAnthropic, beta_async_tool
from pydantic import BaseModel

from agentlightning.gateway.upstream import UpstreamCapabilities
from tests.gateway.running import Running, running
from tests.support.model_server import Answer, ModelServer

ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 99,
    "messages": [{"role": "user", "content": "hi"}],
}


def client_of(run: Running) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=run.attempt_url, api_key="key", max_retries=0)


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_runner(server: ModelServer, stream: bool) -> None:
    """The client's own loop over tools runs to its end, calls with broken arguments included."""
    asked: list[str] = []

    @beta_async_tool
    async def search(q: str) -> str:
        """Find things.

        Args:
            q: What.
        """
        asked.append(q)
        return f"found {q}"

    def script(request: dict[str, Any]) -> Answer:
        if request["messages"][-1]["role"] == "tool":
            return Answer(text="done")
        return Answer(text="", tools=[("search", '{"q": "é"}'), ("search", '{"q": ')])

    server.script = script
    async with running(server) as run, client_of(run) as client:
        runner = client.beta.messages.tool_runner(**ASK, tools=[search], stream=stream)
        final = await runner.until_done()
        records = await run.records()
    assert asked == ["é"]
    assert final.content[0].to_dict()["text"] == "done"
    call, found, broken = server.calls[-1].request["messages"][1:]
    written = [it["function"]["arguments"] for it in call["tool_calls"]]
    assert written == ['{"q": "é"}', '{"q": ']
    assert found["content"] == "found é"
    assert broken["content"].startswith("Error: ")
    # The first asks for a conversation that the server keeps, which the client can do without.
    assert [record.outcome for record in records] == ["error", "ok", "ok"]


async def test_subagents_of_claude_have_a_role(server: ModelServer) -> None:
    """The id that the `claude` program sends for a sub-agent is its role, unless one is given."""
    sent = {"x-claude-code-agent-id": "a98"}
    async with running(server) as run:
        for headers in ({}, sent, {**sent, "x-agl-role": "solver"}):
            async with client_of(run) as client:
                await client.messages.create(**ASK, extra_headers=headers)
        run.gateway.set_model("alias", replace(run.gateway.models["m"], role="known"))
        asked: dict[str, Any] = {**ASK, "model": "alias", "extra_headers": sent}
        async with client_of(run) as client:
            await client.messages.create(**asked)
        roles = [record.role for record in await run.records()]
    assert roles == [None, "subagent:a98", "solver", "known"]


async def test_tool_input_comes_while_it_is_written(server: ModelServer) -> None:
    """Arguments reach the client piece by piece, long before the model is done with them."""
    written = json.dumps({"path": "a.py", "text": "é\n" * 50}, ensure_ascii=False)
    server.script = Answer(text="", tools=[("write", written)], fault="hang")
    async with running(server) as run, client_of(run) as client:
        seen, parsed = "", None
        async with client.messages.stream(**ASK) as stream:
            async for event in stream:
                if event.type == "input_json":
                    seen += event.partial_json
                    parsed = event.snapshot
                    if len(seen) > 60:
                        break
    assert written.startswith(seen)
    assert parsed == {"path": "a.py"}


@pytest.mark.parametrize("interleaved", [False, True])
async def test_several_calls_at_once(server: ModelServer, interleaved: bool) -> None:
    """Calls that a server writes by turns reach the client one after another, complete."""
    tools = [(f"t{at}", json.dumps({"n": at, "q": "x" * 20})) for at in range(3)]
    server.script = Answer(text="so", tools=tools, interleaved=interleaved)
    async with running(server) as run, client_of(run) as client, client.messages.stream(**ASK) as s:
        message = await s.get_final_message()
    said = [block.to_dict() for block in message.content[1:]]
    assert [(block["name"], block["input"]) for block in said] == [
        (name, json.loads(arguments)) for name, arguments in tools
    ]


async def test_broken_arguments_are_taken_back(server: ModelServer) -> None:
    """No client acts on the first half of arguments that break; the model gets its own text back."""
    broken = '{"command": "rm -r /tmp/x", "force": yes'
    server.script = Answer(text="", tools=[("sh", broken)])
    async with running(server) as run, client_of(run) as client:
        async with client.messages.stream(**ASK) as stream:
            message = await stream.get_final_message()
        (call,) = [block.to_dict() for block in message.content]
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": "no such command"}
        turn: list[Any] = [
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]
        again: dict[str, Any] = {**ASK, "messages": [*ASK["messages"], *turn]}
        await client.messages.create(**again)
    assert call["input"] == {"command": None, "force": None, "INVALID_JSON": broken}
    sent = server.calls[-1].request["messages"][1]["tool_calls"][0]["function"]
    assert sent == {"name": "sh", "arguments": broken}


async def test_parsed_answers(server: ModelServer) -> None:
    """A schema for the answer reaches the server, and the client parses what it says."""

    class City(BaseModel):
        name: str
        people: int

    server.script = Answer(text='{"name": "Köln", "people": 1}')
    async with running(server) as run, client_of(run) as client:
        message = await client.messages.parse(**ASK, output_format=City)
    assert message.parsed_output == City(name="Köln", people=1)
    wanted = server.calls[0].request["response_format"]
    assert wanted["json_schema"]["schema"]["properties"]["people"]["type"] == "integer"


async def test_servers_without_ids_in_streams(server: ModelServer) -> None:
    """A server that tells ids outside of streams only is asked so; the client gets its stream."""
    capabilities = UpstreamCapabilities(token_ids=True, logprobs=True, token_ids_in_streams=False)
    tools = [("search", '{"q":  1}'), ("search", "{}")]
    server.script = Answer(text="a\nb", reasoning="Hm", tools=tools, cached_tokens=2)
    async with running(server, capabilities=capabilities) as run, client_of(run) as client:
        async with client.messages.stream(**ASK) as stream:
            message = await stream.get_final_message()
        record = await run.record()
    (call,) = server.calls
    assert not call.request["stream"]
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.stop_reason == "tool_use"
    assert message.usage.cache_read_input_tokens == 2
    assert message.usage.output_tokens == len(call.token_ids[0])
    assert record.choices[0].token_ids == call.token_ids[0]
    assert record.stream
