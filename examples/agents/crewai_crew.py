"""A crew of CrewAI: a solver with a tool and a checker that gives the final answer."""

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

import agentlightning as agl


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


def member(role: str, goal: str, llm: agl.LLM, tools: list) -> Agent:
    """Return an agent whose calls are recorded under its role."""
    own = llm.for_role(role)
    model = LLM(
        model=f"openai/{own.model}", base_url=own.endpoint, api_key=own.api_key or "-", stream=True
    )
    return Agent(role=role, goal=goal, backstory="", llm=model, tools=tools, max_iter=4)


@agl.rollout
def agent(task: dict, llm: agl.LLM) -> float:
    """Answer one question; 1 for an answer that holds the right number."""
    solver = member("solver", "Solve questions with your tool", llm, [multiply])
    checker = member("checker", "Check what the solver says", llm, [])
    asked = Task(description=task["question"], expected_output="a number", agent=solver)
    checked = Task(
        description=f"Check the answer to: {task['question']}",
        expected_output="the right number",
        agent=checker,
        context=[asked],
    )
    crew = Crew(agents=[solver, checker], tasks=[asked, checked], verbose=False)
    return float(str(task["answer"]) in crew.kickoff().raw)
