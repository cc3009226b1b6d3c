"""Rollouts recorded by libraries that live in an environment of their own (`.venvs/bridges`).

`python -m tests.tracer.bridged <library> ...` prints one JSON line: for each library the spans of
each rollout as they are in the store, and which addresses off this machine were asked for.
`outcome_of` runs it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlightning.settings import agent_environment
from agentlightning.tracer.otel import OtelTracer
from agentlightning.types.tracer import Span
from tests.conformance.llm_spans import TOOL, answer, conversation, record_rollouts
from tests.support.model_server import Answer, ModelServer

TOOLS: Any = [{"type": "function", "function": TOOL}]
IDS = {"extra_body": {"return_token_ids": True}}
Agent = Callable[[int], Awaitable[None]]
LEFT: list[str] = []
ROOT = Path(__file__).parents[2]


def weave(endpoint: str) -> tuple[OtelTracer, Agent]:
    """An operation of Weave's around OpenAI's client, which Weave instruments."""
    from agentlightning.tracer.weave import WeaveTracer

    async def agent(number: int) -> None:
        import weave
        from openai import AsyncOpenAI

        @weave.op
        async def solve(question: int) -> str:
            ask: dict[str, Any] = {"model": "m", "messages": conversation(question)}
            async with AsyncOpenAI(base_url=endpoint, api_key="key") as client:
                await client.chat.completions.create(**ask, tools=TOOLS, **IDS)
                async for _ in await client.chat.completions.create(**ask, stream=True):
                    await asyncio.sleep(0)
            if number == 1:
                raise ValueError("wrong")
            return "solved"

        try:
            await solve(number)
        except ValueError:
            assert number == 1

    return WeaveTracer(project_name="team/project"), agent


def litellm(endpoint: str) -> tuple[OtelTracer, Agent]:
    """LiteLLM with its own OpenTelemetry callback."""
    from agentlightning.instrumentation import instrument_all
    from agentlightning.tracer.provider import shared_provider

    instrument_all()
    import litellm
    from litellm.integrations.opentelemetry import OpenTelemetry

    tracer = OtelTracer()
    litellm.callbacks = [OpenTelemetry(tracer_provider=shared_provider())]

    async def agent(number: int) -> None:
        ask: dict[str, Any] = {"model": "hosted_vllm/m", "messages": conversation(number)}
        await litellm.acompletion(**ask, **IDS, tools=TOOLS, api_base=endpoint, api_key="key")
        async with asyncio.timeout(30):
            # It writes its spans in the background, some time after the answer.
            while len(tracer.get_last_trace()) < 2:
                await asyncio.sleep(0.02)

    return tracer, agent


def langgraph(endpoint: str, config: Callable[[], Any] = dict) -> tuple[OtelTracer, Agent]:
    """LangGraph and OpenAI's client below it, both instrumented by us."""

    async def agent(number: int) -> None:
        from langchain_openai import ChatOpenAI
        from langgraph.prebuilt import create_react_agent  # langchain's own needs all of it.

        def search(q: str) -> str:
            """Find things."""
            return f"found {q}"

        model = ChatOpenAI(model="m", base_url=endpoint, api_key="key")
        graph = create_react_agent(model, [search])
        await graph.ainvoke({"messages": [("user", f"question {number}")]}, config())

    return OtelTracer(instrument=True), agent


def agentops(endpoint: str) -> tuple[OtelTracer, Agent]:
    """The same under AgentOps, with its callback handler."""
    from agentlightning.tracer.agentops import AgentOpsTracer

    tracer = AgentOpsTracer()
    _, agent = langgraph(endpoint, lambda: {"callbacks": [tracer.get_langchain_handler()]})
    return tracer, agent


def script(request: dict[str, Any]) -> Answer:
    """Use the tool first, where one is to be used."""
    if any("found" in str(message.get("content")) for message in request["messages"]):
        return answer(request) if len(request["messages"]) == 5 else Answer(text="done")
    return answer(request)


def guard() -> None:
    """Note and refuse every way off this machine."""
    connect = socket.socket.connect

    def refusing(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in {"127.0.0.1", "::1"}:
            LEFT.append(str(address))
            raise ConnectionRefusedError
        connect(self, address)

    resolve = socket.getaddrinfo

    def local(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in {"127.0.0.1", "::1", "localhost", None}:
            LEFT.append(str(host))
            raise socket.gaierror("refused")
        return resolve(host, *args, **kwargs)

    socket.socket.connect = refusing  # type: ignore[method-assign]
    socket.getaddrinfo = local  # type: ignore[assignment]


def run(library: str) -> dict[str, Any]:
    """Run one library's rollouts."""
    with ModelServer(script) as server:
        tracer, agent = globals()[library](server.endpoint)
        rollouts = asyncio.run(record_rollouts(tracer, 3, agent))
        sent = [call.prompt_token_ids for call in server.calls]
    spans = [[span.model_dump(mode="json") for span in rollout] for rollout in rollouts]
    return {"spans": spans, "prompts": sent, "left": LEFT}


@dataclass
class Outcome:
    """What was recorded by one library."""

    rollouts: list[list[Span]]
    prompts: list[list[int]]
    """Token ids of every prompt that the server was sent."""


def outcome_of(*libraries: str) -> list[Outcome]:
    """Run libraries in a process of their environment, and check that nothing left the machine."""
    python = ROOT / ".venvs/bridges/bin/python"
    assert python.exists(), f"{python} is missing: run `make frameworks`"
    variables = {"PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [python, "-W", "ignore", "-m", "tests.tracer.bridged", *libraries],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**agent_environment(), **variables, "AGENTOPS_API_KEY": "a" * 36},
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert "ended span" not in done.stderr
    assert "detach" not in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [item["left"] for item in found] == [[] for _ in libraries]
    return [
        Outcome(
            [[Span.model_validate(span) for span in rollout] for rollout in item["spans"]],
            item["prompts"],
        )
        for item in found
    ]


if __name__ == "__main__":
    guard()
    found = [run(library) for library in sys.argv[1:]]
    sys.stdout.write(json.dumps(found) + "\n")
