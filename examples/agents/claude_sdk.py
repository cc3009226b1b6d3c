"""The Claude Agent SDK with a tool of its own and a subagent, on whatever model is trained."""

import tempfile

from claude_agent_sdk import (
    AgentDefinition,
    ClaudeAgentOptions,
    ResultMessage,
    create_sdk_mcp_server,
    query,
    tool,
)

import agentlightning as agl


@tool("multiply", "Multiply two whole numbers.", {"a": int, "b": int})
async def multiply(arguments: dict) -> dict:
    """Return the product."""
    product = arguments["a"] * arguments["b"]
    return {"content": [{"type": "text", "text": str(product)}]}


def options(llm: agl.LLM, home: str) -> ClaudeAgentOptions:
    """Return what makes the program use the trained model, and keep to itself."""
    return ClaudeAgentOptions(
        model=llm.model,
        mcp_servers={"math": create_sdk_mcp_server("math", tools=[multiply])},
        allowed_tools=["mcp__math__multiply", "Task", "Agent"],
        agents={
            "solver": AgentDefinition(
                description="Solves questions about numbers.",
                prompt="Solve the question with your tool.",
                tools=["mcp__math__multiply"],
                model="solver",
            )
        },
        setting_sources=[],
        max_turns=6,
        cwd=home,
        env={
            "HOME": home,
            "ANTHROPIC_BASE_URL": llm.endpoint.removesuffix("/v1"),
            "ANTHROPIC_API_KEY": llm.api_key or "-",
            "ANTHROPIC_SMALL_FAST_MODEL": llm.model,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",  # Wait for subagents.
            "ENABLE_TOOL_SEARCH": "false",  # Otherwise tools are sent in a form of Anthropic's own.
        },
    )


@agl.rollout
async def agent(task: dict, llm: agl.LLM) -> float:
    """Answer one question; 1 for an answer that holds the right number."""
    text = ""
    with tempfile.TemporaryDirectory() as home:
        async for message in query(prompt=task["question"], options=options(llm, home)):
            if isinstance(message, ResultMessage):
                text = message.result or ""
    return float(str(task["answer"]) in text)
