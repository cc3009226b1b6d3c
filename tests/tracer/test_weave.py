"""Weave's calls become spans of their attempt, without Weave's service."""

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.semconv import LightningResourceAttributes
from agentlightning.tracer.weave import WeaveTracer
from tests.conformance.llm_spans import calls_of, check_call
from tests.tracer.bridged import outcome_of


def test_calls_become_spans():
    """Operations and the model calls inside arrive in their rollout, with names, ids and errors."""
    (outcome,) = outcome_of("weave")
    for number, spans in enumerate(outcome.rollouts):
        by_name = {span.name: span for span in spans}
        assert len(spans) == 3
        assert set(by_name) == {"solve", "openai.chat.completions.create"}
        solve = by_name["solve"]
        names = LightningResourceAttributes
        assert solve.resource.attributes[names.TRACER_NAME.value] == "weave"
        assert solve.resource.attributes[names.ROLLOUT_ID.value] == solve.rollout_id
        assert solve.attributes["agentlightning.operation.input.question"] == number
        told = str(solve.attributes["agentlightning.operation.name"])
        assert told.startswith("weave:///team/project/op/solve:")
        if number == 1:
            assert solve.status.status_code == "ERROR"
            assert "wrong" in str(solve.attributes["exception.message"])
        else:
            assert solve.status.status_code == "OK"
            assert solve.attributes["agentlightning.operation.output"] == "solved"
        assert {span.parent_id for span in spans} == {None, solve.span_id}
        assert len({span.trace_id for span in spans}) == 1
        whole, streamed = calls_of(spans)
        check_call(whole, number, tools=True)
        check_call(streamed, number, tools=False, lost=frozenset({"usage"}))
        assert whole.prompt_token_ids in outcome.prompts
        assert whole.response_token_ids


def test_without_weave_the_error_names_the_extra():
    """Where Weave is not installed, as here, the tracer says which extra brings it."""
    with pytest.raises(ConfigurationError, match=r"agentlightning\[weave\]"):
        WeaveTracer()
