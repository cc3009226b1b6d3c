"""An agent of smolagents that calls tools; answers are streamed."""

from smolagents import LogLevel, OpenAIModel, ToolCallingAgent, tool

import agentlightning as agl


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers.

    Args:
        a: The first one.
        b: The second one.
    """
    return a * b


@agl.rollout
def agent(task: dict, llm: agl.LLM) -> float:
    """Answer one question; 1 for an answer that holds the right number."""
    model = OpenAIModel(llm.model, api_base=llm.endpoint, api_key=llm.api_key or "-")
    solver = ToolCallingAgent(
        [multiply], model, stream_outputs=True, max_steps=4, verbosity_level=LogLevel.OFF
    )
    return float(str(task["answer"]) in str(solver.run(task["question"])))
