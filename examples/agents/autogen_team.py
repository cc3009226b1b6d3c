"""A team of AutoGen: a solver with a tool and a checker that ends the talk; answers are streamed."""

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import ModelFamily, ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

import agentlightning as agl

ABILITIES = ModelInfo(
    vision=False,
    function_calling=True,
    json_output=False,
    family=ModelFamily.UNKNOWN,
    structured_output=False,
)


async def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


def client(llm: agl.LLM, role: str) -> OpenAIChatCompletionClient:
    """Return a client whose calls are recorded under a role."""
    own = llm.for_role(role)
    return OpenAIChatCompletionClient(
        model=own.model, base_url=own.endpoint, api_key=own.api_key or "-", model_info=ABILITIES
    )


@agl.rollout
async def agent(task: dict, llm: agl.LLM) -> float:
    """Answer one question; 1 for a talk in which the right number is said."""
    solver = AssistantAgent(
        "solver",
        client(llm, "solver"),
        tools=[multiply],
        reflect_on_tool_use=True,
        model_client_stream=True,
        system_message="Solve the question with your tool.",
    )
    checker = AssistantAgent(
        "checker",
        client(llm, "checker"),
        model_client_stream=True,
        system_message="Say DONE if the answer is right.",
    )
    end = TextMentionTermination("DONE") | MaxMessageTermination(8)
    talk = await RoundRobinGroupChat([solver, checker], termination_condition=end).run(
        task=task["question"]
    )
    return float(any(str(task["answer"]) in message.to_text() for message in talk.messages))
