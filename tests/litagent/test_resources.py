"""Choosing among published resources."""

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.litagent.resources import first_resource, llm_of_attempt
from agentlightning.types import LLM, Attempt, AttemptedRollout, PromptTemplate, ProxyLLM, Rollout

PROMPT = PromptTemplate(template="{x}", engine="f-string")
PROXY = ProxyLLM(endpoint="http://h/v1", model="m", api_key="k")
PLAIN = LLM(endpoint="http://other/v1", model="m")
ATTEMPT = Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0)


def test_the_first_of_a_type_is_found(caplog):
    """Order decides, a proxy is a model, too, and a choice among several is told."""
    assert first_resource({"p": PROMPT, "a": PROXY, "b": PLAIN}, LLM) is PROXY
    assert "several resources of the same type" in caplog.text
    caplog.clear()
    assert first_resource({"p": PROMPT, "a": PROXY}, PromptTemplate) is PROMPT
    assert caplog.text == ""


def test_what_is_missing_is_named():
    """The message says what there is instead."""
    with pytest.raises(ConfigurationError, match="type LLM, but the published resources are: p"):
        first_resource({"p": PROMPT}, LLM)


def test_a_model_behind_the_gateway_gets_the_attempts_address():
    """A plain model stays as it is; a proxy without an attempt cannot be attributed."""
    rollout = AttemptedRollout(rollout_id="ro-1", input=1, start_time=0.0, attempt=ATTEMPT)
    found = llm_of_attempt(PROXY, rollout)
    assert (type(found), found.api_key) == (LLM, "k")
    assert found.endpoint == "http://h/rollout/ro-1/attempt/at-1/v1"
    assert llm_of_attempt(PLAIN, rollout) is PLAIN
    with pytest.raises(ConfigurationError, match="AttemptedRollout"):
        llm_of_attempt(PROXY, Rollout(rollout_id="ro-1", input=1, start_time=0.0))
