"""The environment of child processes."""

from agentlightning.litagent.child_environment import (
    attempt_variables,
    chosen,
    model_variables,
)
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import LLM, Attempt, AttemptedRollout

URL = "http://h:1/rollout/ro-1/attempt/at-1/v1"


def test_only_named_variables_are_passed_on():
    """What is not named stays here."""
    assert chosen({"PATH": "/bin", "SECRET": "s"}, ["PATH", "LANG"]) == {"PATH": "/bin"}


def test_clients_of_both_formats_find_the_model():
    """OpenAI's clients get the versioned URL, Anthropic's the one without, both a key."""
    found = model_variables(LLM(endpoint=URL, model="m", api_key="k"))
    assert found["OPENAI_BASE_URL"] == URL
    assert found["ANTHROPIC_BASE_URL"] == URL.removesuffix("/v1")
    assert {found["OPENAI_API_KEY"], found["ANTHROPIC_API_KEY"]} == {"k"}
    models = {value for name, value in found.items() if name.endswith("_MODEL")}
    assert models == {"m"}
    assert model_variables(LLM(endpoint=URL, model="m"))["OPENAI_API_KEY"]


def test_the_attempt_is_named_for_the_child_and_for_its_telemetry():
    """Ids are variables of their own and OpenTelemetry resource attributes."""
    attempt = Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0)
    rollout = AttemptedRollout(rollout_id="ro-1", input=1, start_time=0.0, attempt=attempt)
    found = attempt_variables(rollout, InMemoryLightningStore())
    assert (found["AGL_ROLLOUT_ID"], found["AGL_ATTEMPT_ID"]) == ("ro-1", "at-1")
    assert found["OTEL_RESOURCE_ATTRIBUTES"] == (
        "agentlightning.rollout_id=ro-1,agentlightning.attempt_id=at-1"
    )
    # A store that takes no spans over HTTP is not named.
    assert not [name for name in found if name.startswith("OTEL_EXPORTER")]
