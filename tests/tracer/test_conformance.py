"""The spans that real instrumentations write of real calls are understood, each in its rollout."""

from __future__ import annotations

import builtins
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from anthropic.resources.messages import AsyncMessages, Messages
from openai import AsyncOpenAI, OpenAI
from openai.resources.chat.completions import AsyncCompletions, Completions
from openai.resources.responses import Responses

from agentlightning.adapter.llm_call import LlmCall
from agentlightning.adapter.triplet import TracerTraceToTriplet
from agentlightning.instrumentation.client_library import ClientLibrary
from agentlightning.tracer.agentops import AgentOpsTracer
from agentlightning.tracer.otel import OtelTracer
from agentlightning.tracer.provider import shared_provider
from agentlightning.types.tracer import Span
from tests.conformance.llm_spans import (
    TOOL,
    answer,
    blocks,
    calls_of,
    check_call,
    conversation,
    record_rollouts,
)
from tests.gateway.running import running
from tests.support.model_server import ModelServer, ids_of

# What the libraries themselves do at import is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:Support for class-based:DeprecationWarning")

COUNT = 4
OPENAI_TOOLS: Any = [{"type": "function", "function": TOOL}]
ANTHROPIC_TOOLS: Any = [
    {
        "name": TOOL["name"],
        "description": TOOL["description"],
        "input_schema": TOOL["parameters"],
    }
]
IDS = {"extra_body": {"return_token_ids": True}}


@contextlib.contextmanager
def opentelemetry_instrumentation() -> Iterator[OtelTracer]:
    """OpenTelemetry's own instrumentations, which are taken where OpenInference's are not."""
    prefix = "opentelemetry.instrumentation"
    libraries = [
        ClientLibrary("openai", ("", f"{prefix}.openai", "OpenAIInstrumentor")),
        ClientLibrary("anthropic", ("", f"{prefix}.anthropic", "AnthropicInstrumentor")),
    ]
    for library in libraries:
        library.instrument(shared_provider())
    try:
        yield OtelTracer()
    finally:
        for library in libraries:
            library.uninstrument()


WRITERS: dict[str, Callable[[], contextlib.AbstractContextManager[OtelTracer]]] = {
    "openinference": lambda: contextlib.nullcontext(OtelTracer(instrument=True)),
    "opentelemetry": opentelemetry_instrumentation,
    "agentops": lambda: contextlib.nullcontext(AgentOpsTracer()),
}


async def recorded(writer: str, agent: Callable[[int], Awaitable[None]]) -> list[list[Span]]:
    with WRITERS[writer]() as tracer:
        return await record_rollouts(tracer, COUNT, agent)


def check_ids(call: LlmCall, prompt_ids: set[tuple[int, ...]]) -> None:
    assert tuple(call.prompt_token_ids) in prompt_ids
    assert call.response_token_ids == [*ids_of("Let me see.<search>" + '{"q": "x"}'), 2]


@pytest.mark.parametrize("writer", WRITERS)
async def test_openai_chat_is_told(writer: str):
    """Whole and streamed chat completions, with tools, of sync and async clients."""
    with ModelServer(answer) as server:
        client = {"base_url": server.endpoint, "api_key": "key"}

        async def agent(number: int) -> None:
            ask: dict[str, Any] = {"model": "m", "messages": conversation(number)}
            asked: dict[str, Any] = {**ask, "tools": OPENAI_TOOLS, "temperature": 0.5}
            async with AsyncOpenAI(**client) as own:
                await own.chat.completions.create(**asked, **IDS)
                stream = await own.chat.completions.create(
                    **asked, **IDS, stream=True, stream_options={"include_usage": True}
                )
                async for _ in stream:
                    pass
            with OpenAI(**client) as own:
                own.chat.completions.create(**ask)

        rollouts = await recorded(writer, agent)
        sent = {tuple(call.prompt_token_ids) for call in server.calls}
    for number, spans in enumerate(rollouts):
        whole, streamed, plain = calls_of(spans)
        check_call(whole, number, tools=True, lost=LOST[writer])
        check_call(streamed, number, tools=True, lost=LOST[writer] | STREAM_LOST[writer])
        check_call(plain, number, tools=False, lost=LOST[writer])
        assert whole.request["temperature"] == 0.5
        if writer != "opentelemetry":
            check_ids(whole, sent)
            check_ids(streamed, sent)


@pytest.mark.parametrize("writer", WRITERS)
async def test_anthropic_messages_are_told(writer: str):
    """Whole and streamed messages of Anthropic's client, whose own spans are of the same call."""

    async def agent(number: int) -> None:
        ask: Any = {"model": "m", "max_tokens": 99, "system": "Be brief."}
        ask |= {"messages": blocks(number), "tools": ANTHROPIC_TOOLS}
        if number == 0:
            await client.messages.create(**ask)
        elif number == 1:
            async for _ in await client.messages.create(**ask, stream=True):
                pass
        else:
            async with client.messages.stream(**ask) as stream:
                async for _ in stream:
                    pass

    with ModelServer(answer) as server:
        async with running(server) as run:
            client = AsyncAnthropic(base_url=run.attempt_url, api_key="key", max_retries=0)
            async with client:
                rollouts = await recorded(writer, agent)
    for number, spans in enumerate(rollouts[:3]):
        (triplet,) = TracerTraceToTriplet().adapt(spans)
        assert triplet.metadata["response_id"] == "chatcmpl-1"
        told = [call for call in calls_of(spans) if call.messages]
        assert len(told) == 1
        if writer != "agentops":
            check_call(told[0], number, tools=True)
        elif number != 1:
            # Results of tools are put into texts, the system message is left out, and of a plain
            # stream AgentOps tells nothing about the answer.
            lost = frozenset({"system", "history", "definitions", "id"})
            check_call(told[0], number, tools=number == 0, lost=lost)


@pytest.mark.parametrize("writer", WRITERS)
async def test_nothing_stays_instrumented(writer: str):
    """Once the last worker is gone, no call is recorded, and the clients are as they were."""
    methods = [
        (OpenAI, "request"),
        (Completions, "create"),
        (AsyncCompletions, "create"),
        (Responses, "create"),
        (Messages, "create"),
        (AsyncMessages, "stream"),
    ]
    before = [id(inspect.getattr_static(owner, name)) for owner, name in methods]
    importer, printer = builtins.__import__, builtins.print
    with WRITERS[writer]() as tracer, tracer.lifespan():
        during = [id(inspect.getattr_static(owner, name)) for owner, name in methods]
    assert during != before
    assert [id(inspect.getattr_static(owner, name)) for owner, name in methods] == before
    assert (builtins.__import__, builtins.print) == (importer, printer)


LOST: dict[str, frozenset[str]] = {
    "openinference": frozenset(),
    "opentelemetry": frozenset(),
    "agentops": frozenset({"tool_calls"}),
}
"""AgentOps writes calls of tools as spans below the call's."""
STREAM_LOST: dict[str, frozenset[str]] = {
    "openinference": frozenset({"id"}),
    "opentelemetry": frozenset(),
    "agentops": frozenset(),
}
