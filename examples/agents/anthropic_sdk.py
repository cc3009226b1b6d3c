"""An agent that calls a tool, written with the `anthropic` package; answers are streamed.

The model need not be Anthropic's: the gateway translates for any other.
"""

from anthropic import AsyncAnthropic, beta_async_tool

import agentlightning as agl


@beta_async_tool
async def multiply(a: int, b: int) -> str:
    """Multiply two whole numbers."""
    return str(a * b)


@agl.rollout
async def agent(task: dict, llm: agl.LLM) -> float:
    """Answer with the help of the tool; 1 for an answer that holds the right number."""
    # Anthropic's clients add the version to the URL by themselves.
    url = llm.endpoint.removesuffix("/v1")
    async with AsyncAnthropic(base_url=url, api_key=llm.api_key or "-") as client:
        turns = client.beta.messages.tool_runner(
            model=llm.model,
            max_tokens=256,
            max_iterations=4,
            tools=[multiply],
            messages=[{"role": "user", "content": task["question"]}],
            stream=True,
        )
        text = ""
        async for turn in turns:
            reply = await turn.get_final_message()
            text = "".join(block.text for block in reply.content if block.type == "text")
    return float(str(task["answer"]) in text)
