"""A graph of LangGraph: an agent of LangChain with a tool, and a second opinion on its answer."""

from typing import TypedDict

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

import agentlightning as agl


class State(TypedDict, total=False):
    """What the nodes hand on."""

    question: str
    draft: str
    answer: str


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


def chat_model(llm: agl.LLM, role: str) -> ChatOpenAI:
    """Return the model as one of the agents sees it: calls are recorded under its role."""
    own = llm.for_role(role)
    return ChatOpenAI(
        base_url=own.endpoint, api_key=own.api_key or "-", model=own.model, streaming=True
    )


def graph(llm: agl.LLM):
    """Return the compiled graph."""
    solver = create_agent(chat_model(llm, "solver"), [multiply])
    checker = chat_model(llm, "checker")

    async def solve(state: State) -> State:
        question = {"role": "user", "content": state["question"]}
        said = await solver.ainvoke({"messages": [question]}, {"recursion_limit": 8})
        return {"draft": said["messages"][-1].text}

    async def check(state: State) -> State:
        request = f"{state['question']} Somebody says: {state['draft']} Give the right answer."
        return {"answer": (await checker.ainvoke(request)).text}

    nodes = StateGraph(State).add_node("solve", solve).add_node("check", check)
    nodes.add_edge(START, "solve").add_edge("solve", "check").add_edge("check", END)
    return nodes.compile()


@agl.rollout
async def agent(task: dict, llm: agl.LLM) -> float:
    """Answer one question; 1 for an answer that holds the right number."""
    state = await graph(llm).ainvoke({"question": task["question"]})
    return float(str(task["answer"]) in state["answer"])
