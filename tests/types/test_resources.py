"""Resources: endpoints of attempts, templates, and the tagged union."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentlightning.errors import ConfigurationError
from agentlightning.types import (
    LLM,
    Attempt,
    AttemptedRollout,
    PromptTemplate,
    ProxyLLM,
    ResourcesUpdate,
)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://h:1/v1", "http://h:1/rollout/r/attempt/a/v1"),
        ("http://h:1/v1/", "http://h:1/rollout/r/attempt/a/v1"),
        ("http://h:1", "http://h:1/rollout/r/attempt/a"),
        ("http://h:1/", "http://h:1/rollout/r/attempt/a"),
        ("http://h:1/base/v1", "http://h:1/base/rollout/r/attempt/a/v1"),
    ],
)
def test_attempt_goes_into_the_path_before_the_version(endpoint: str, expected: str):
    """The ids stand before `/v1`, which comes back only where it was."""
    assert ProxyLLM(endpoint=endpoint, model="m").get_base_url("r", "a") == expected


def test_one_id_alone_is_refused():
    """Both ids or neither."""
    proxy = ProxyLLM(endpoint="http://h/v1", model="m")
    assert proxy.get_base_url() == "http://h/v1"
    with pytest.raises(ValueError, match="both"):
        proxy.get_base_url("r", None)
    with pytest.raises(ValueError, match="both"):
        proxy.get_base_url(None, "a")


def test_proxy_becomes_a_plain_model_for_one_attempt():
    """The endpoint is baked in; the rest is kept."""
    attempt = Attempt(rollout_id="r", attempt_id="a", sequence_id=1, start_time=0.0)
    rollout = AttemptedRollout(rollout_id="r", input=1, start_time=0.0, attempt=attempt)
    proxy = ProxyLLM(
        endpoint="http://h/v1", model="m", api_key="k", sampling_parameters={"temperature": 0.5}
    )
    plain = proxy.with_attempted_rollout(rollout)
    assert type(plain) is LLM
    assert plain.endpoint == "http://h/rollout/r/attempt/a/v1"
    assert (plain.model, plain.api_key) == ("m", "k")
    assert plain.sampling_parameters == {"temperature": 0.5}


@given(st.text())
def test_template_fills_in_values_as_they_are(value: str):
    """Braces in values are not placeholders."""
    template = PromptTemplate(template="<{x}>", engine="f-string")
    assert template.format(x=value) == f"<{value}>"


def test_template_of_another_engine_is_not_filled_in():
    """Only f-string templates are ours to fill in, and all placeholders need values."""
    with pytest.raises(NotImplementedError, match="jinja"):
        PromptTemplate(template="{{ x }}", engine="jinja").format(x=1)
    with pytest.raises(KeyError):
        PromptTemplate(template="{x}", engine="f-string").format(y=1)


def test_resources_come_back_as_their_own_class():
    """The tag in JSON decides the class, and an unknown tag is refused."""
    update = ResourcesUpdate(
        resources_id="rs-1",
        create_time=0.0,
        update_time=0.0,
        version=1,
        resources={
            "a": LLM(endpoint="e", model="m"),
            "b": ProxyLLM(endpoint="e", model="m"),
            "c": PromptTemplate(template="t", engine="poml"),
        },
    )
    copy = ResourcesUpdate.model_validate_json(update.model_dump_json())
    assert [type(item) for item in copy.resources.values()] == [LLM, ProxyLLM, PromptTemplate]
    with pytest.raises(ValidationError):
        ResourcesUpdate.model_validate(
            update.model_dump() | {"resources": {"x": {"resource_type": "other"}}}
        )


def test_an_attempts_endpoint_can_name_the_agent_that_calls() -> None:
    """The role goes into the path, takes an earlier one's place, and needs an attempt's endpoint."""
    llm = LLM(endpoint="http://h/rollout/ro-1/attempt/at-1/v1", model="m", api_key="k")
    planner = llm.for_role("the planner")
    assert planner.endpoint == "http://h/rollout/ro-1/attempt/at-1/role/the%20planner/v1"
    assert planner.api_key == "k"
    assert planner.for_role("b").endpoint == "http://h/rollout/ro-1/attempt/at-1/role/b/v1"
    with pytest.raises(ConfigurationError, match="not the endpoint of an attempt"):
        LLM(endpoint="http://h/v1", model="m").for_role("a")
