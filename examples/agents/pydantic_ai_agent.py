"""An agent of Pydantic AI with a tool and a typed result."""

from pydantic import BaseModel
from pydantic_ai import Agent, UsageLimits
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import agentlightning as agl


class Result(BaseModel):
    """What the model must return; Pydantic AI asks it again until it does."""

    product: int


solver = Agent(output_type=Result, instructions="Solve the question with your tool.", retries=2)


@solver.tool_plain
def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


@agl.rollout
async def agent(task: dict, llm: agl.LLM) -> float:
    """Answer one question; 1 for the right number."""
    provider = OpenAIProvider(base_url=llm.endpoint, api_key=llm.api_key or "-")
    model = OpenAIChatModel(llm.model, provider=provider)
    limits = UsageLimits(request_limit=6)
    run = await solver.run(task["question"], model=model, usage_limits=limits)
    return float(run.output.product == task["answer"])
