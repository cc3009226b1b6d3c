"""LiteLLM's spans say token ids, and the calls are understood."""

import pytest

from agentlightning.adapter.triplet import TracerTraceToTriplet
from agentlightning.errors import ConfigurationError
from agentlightning.instrumentation.litellm import instrument_litellm
from tests.conformance.llm_spans import calls_of, check_call
from tests.tracer.bridged import outcome_of


def test_its_spans_are_told_and_hold_token_ids():
    """Both of the spans that LiteLLM writes of one call are read, and make one triplet."""
    (outcome,) = outcome_of("litellm")
    for number, spans in enumerate(outcome.rollouts):
        assert {span.name for span in spans} == {"litellm_request", "raw_gen_ai_request"}
        calls = {call.convention: call for call in calls_of(spans)}
        # Tools' calls and results have no ids in the messages of the outer span.
        check_call(calls["genai"], number, tools=True, lost=frozenset({"history"}))
        check_call(calls["litellm"], number, tools=True, lost=frozenset())
        for call in calls.values():
            assert call.prompt_token_ids in outcome.prompts
            assert call.response_token_ids
        (triplet,) = TracerTraceToTriplet().adapt(spans)
        assert triplet.prompt["token_ids"] == calls["genai"].prompt_token_ids


def test_without_litellm_the_error_says_so():
    """Where LiteLLM is not installed, as here, instrumenting it is refused."""
    with pytest.raises(ConfigurationError, match="litellm is not installed"):
        instrument_litellm()
