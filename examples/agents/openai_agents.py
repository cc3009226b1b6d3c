"""Two agents of the OpenAI Agents SDK, one of which hands over to the other; answers are streamed.

A header tells the two apart, so that one may be trained without the other (`GRPO(roles=…)`).
"""

from agents import Agent, ModelSettings, RunConfig, Runner, function_tool
from agents.models.openai_provider import OpenAIProvider

import agentlightning as agl


@function_tool
def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


def team(model: str) -> Agent:
    """Return the agent that takes questions."""

    def named(role: str) -> ModelSettings:
        return ModelSettings(extra_headers={"x-agl-role": role})

    solver = Agent(
        name="solver",
        instructions="Solve the question with your tool.",
        tools=[multiply],
        model=model,
        model_settings=named("solver"),
    )
    return Agent(
        name="triage",
        instructions="Hand every question over to the solver.",
        handoffs=[solver],
        model=model,
        model_settings=named("triage"),
    )


@agl.rollout
async def agent(task: dict, llm: agl.LLM) -> float:
    """Answer one question; 1 for an answer that holds the right number."""
    models = OpenAIProvider(base_url=llm.endpoint, api_key=llm.api_key or "-")
    config = RunConfig(model_provider=models, tracing_disabled=True)
    run = Runner.run_streamed(team(llm.model), task["question"], run_config=config, max_turns=6)
    async for _ in run.stream_events():
        pass
    return float(str(task["answer"]) in str(run.final_output))
