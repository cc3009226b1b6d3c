"""Runs with the interpreter that has LiteLLM: calls the scripted server through a real gateway.

`python -m tests.gateway.litellm_calls` prints a JSON object of what it saw.
"""

import asyncio
import json
from typing import Any

from openai import APIStatusError, AsyncOpenAI

from agentlightning.gateway.litellm_upstream import LiteLLMUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.gateway.upstream import UpstreamCapabilities
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types.call import CallRecord
from agentlightning.types.resources import ProxyLLM
from tests.support.model_server import Answer, ModelServer

TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
]


def script(body: dict[str, Any]) -> Answer:
    asked = body["messages"][-1]["content"]
    if asked == "fail":
        return Answer(status=429, headers={"retry-after": "7"})
    return Answer(tools=[("add", '{"a": 1}')], text="") if asked == "tool" else Answer(text="hello")


async def ask(client: AsyncOpenAI, text: str, **options: Any) -> Any:
    return await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": text}], **options
    )


async def main() -> None:
    seen: dict[str, Any] = {}
    store = InMemoryLightningStore()
    rollout = await store.start_rollout(input="task")
    with ModelServer(script) as server:
        params = {"api_base": server.endpoint, "api_key": "key"}
        capabilities = UpstreamCapabilities(dialects=frozenset({"openai.chat"}))
        upstream = LiteLLMUpstream("openai/real-m", params, capabilities=capabilities)
        gateway = Gateway(store, models={"m": ModelRoute(upstream=upstream, model="real-m")})
        await gateway.start()
        llm = ProxyLLM(endpoint=gateway.endpoint, model="m")
        url = llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            seen["whole"] = (await ask(client, "hi")).choices[0].message.content
            chunks = [chunk async for chunk in await ask(client, "hi", stream=True)]
            seen["streamed"] = "".join(c.choices[0].delta.content or "" for c in chunks)
            seen["chunks"] = len(chunks)
            answer = await ask(client, "tool", tools=TOOLS)
            seen["tool"] = answer.choices[0].message.tool_calls[0].function.arguments
            try:
                await ask(client, "fail")
            except APIStatusError as error:
                seen["status"] = error.status_code
                seen["retry_after"] = error.response.headers.get("retry-after")
        await gateway.stop()
        seen["asked"] = len(server.calls)
        seen["model"] = server.calls[0].request["model"]
        seen["key"] = server.calls[0].headers["authorization"]
    found = [CallRecord.from_span(span) for span in await store.query_spans(rollout.rollout_id)]
    seen["records"] = [(r.outcome, r.error_code, r.stream) for r in found if r is not None]
    await store.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main())
