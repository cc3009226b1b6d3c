"""LangGraph is recorded through OpenInference, and through AgentOps with its callback handler."""

import pytest

from agentlightning.adapter.triplet import TracerTraceToTriplet
from agentlightning.errors import ConfigurationError
from agentlightning.instrumentation.langchain import instrument_langchain, uninstrument_langchain
from tests.conformance.llm_spans import calls_of
from tests.tracer.bridged import outcome_of


def test_graphs_are_recorded_with_their_model_calls():
    """Nodes, tools and calls are in their rollout, and every call's prompt is whole."""
    for outcome, tool in zip(
        outcome_of("langgraph", "agentops"), ("search", "tool.tool"), strict=True
    ):
        for number, spans in enumerate(outcome.rollouts):
            assert tool in {span.name for span in spans}
            assert len({span.trace_id for span in spans}) == 1
            prompts = [call.messages for call in calls_of(spans)]
            assert {prompt[0]["content"] for prompt in prompts} == {f"question {number}"}
            assert {len(prompt) for prompt in prompts} == {1, 3}
            (named,) = {
                triplet.metadata["agent_name"] for triplet in TracerTraceToTriplet().adapt(spans)
            }
            assert named in {"agent", "call_model", "RunnableSequence"}


def test_without_langchain_the_error_says_so():
    """Where LangChain is not installed, as here, instrumenting it is refused."""
    with pytest.raises(ConfigurationError, match="langchain_core is not installed"):
        instrument_langchain()
    uninstrument_langchain()
