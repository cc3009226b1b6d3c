"""An agent that calls a tool, written with the `openai` package alone; answers are streamed."""

import json

from openai import AsyncOpenAI

import agentlightning as agl

MULTIPLY = {
    "type": "function",
    "function": {
        "name": "multiply",
        "description": "Multiply two whole numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


def multiply(arguments: str) -> str:
    """Return the product, or what is wrong with the arguments, which the model gets to see."""
    try:
        numbers = json.loads(arguments)
        return str(int(numbers["a"]) * int(numbers["b"]))
    except (KeyError, TypeError, ValueError) as error:
        return f"error: {error!r}"


@agl.rollout
async def agent(task: dict, llm: agl.LLM) -> float:
    """Answer with the help of the tool; 1 for an answer that holds the right number."""
    messages: list = [{"role": "user", "content": task["question"]}]
    async with AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key or "-") as client:
        for _ in range(4):
            async with client.chat.completions.stream(
                model=llm.model, messages=messages, tools=[MULTIPLY]
            ) as events:
                reply = (await events.get_final_completion()).choices[0].message
            if not reply.tool_calls:
                return float(str(task["answer"]) in (reply.content or ""))
            messages.append(reply.model_dump(exclude_none=True, exclude={"parsed"}))
            for call in reply.tool_calls:
                result = multiply(call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return 0.0
