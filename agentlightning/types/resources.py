"""Resources: what an algorithm publishes for agents to use, in immutable snapshots."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from agentlightning.errors import ConfigurationError
from agentlightning.types.rollout import AttemptedRollout

_attempt_endpoint = re.compile(
    r"(.*/rollout/[^/]+/attempt/[^/]+)(?:/role/[^/]+)?(/v1)?/?"
).fullmatch


class Resource(BaseModel):
    """Base of everything that can be published under a name."""

    resource_type: Any


class LLM(Resource):
    """A model behind an OpenAI-compatible endpoint."""

    resource_type: Literal["llm"] = "llm"
    endpoint: str
    """Base URL as clients expect it, usually ending in `/v1`."""
    model: str
    api_key: str | None = None
    sampling_parameters: dict[str, Any] = Field(default_factory=dict)

    def get_base_url(self, *args: Any, **kwargs: Any) -> str:
        """Return the base URL; arguments are accepted so that proxies can use them."""
        return self.endpoint

    def for_role(self, role: str) -> "LLM":
        """Return the same model with an endpoint whose calls are recorded as one agent's.

        In a system of several agents, give each its own, and choose by role whose tokens are
        trained. Clients that can send headers may send `x-agl-role` instead.

        Raises:
            ConfigurationError: The endpoint is not that of an attempt, so nothing records calls.

        Example:
            >>> llm = LLM(endpoint="http://h/rollout/ro-1/attempt/at-1/v1", model="m")
            >>> llm.for_role("planner").endpoint
            'http://h/rollout/ro-1/attempt/at-1/role/planner/v1'
        """
        match = _attempt_endpoint(self.endpoint)
        if match is None:
            raise ConfigurationError(
                f"{self.endpoint} is not the endpoint of an attempt, so no call to it is recorded "
                "under a role. Use the LLM that the runner hands to the agent."
            )
        endpoint = f"{match[1]}/role/{quote(role, safe='')}{match[2] or ''}"
        return self.model_copy(update={"endpoint": endpoint})


class ProxyLLM(LLM):
    """A model behind our gateway, whose URL can say which attempt a call belongs to."""

    # Compat 0.3.0: a proxy is an LLM, and the tag tells the two apart in JSON.
    resource_type: Literal["proxy_llm"] = "proxy_llm"  # pyright: ignore[reportIncompatibleVariableOverride]  # tag

    def get_base_url(
        self, rollout_id: str | None = None, attempt_id: str | None = None, **_: Any
    ) -> str:
        """Return the endpoint with the attempt's ids in its path.

        Args:
            rollout_id: The rollout a call will belong to.
            attempt_id: Its attempt; both ids or neither.

        Raises:
            ConfigurationError: Exactly one of the two ids is given.

        Example:
            >>> ProxyLLM(endpoint="http://h/v1", model="m").get_base_url("ro-1", "at-1")
            'http://h/rollout/ro-1/attempt/at-1/v1'
        """
        if rollout_id is None and attempt_id is None:
            return self.endpoint
        if rollout_id is None or attempt_id is None:
            raise ConfigurationError("Give both rollout_id and attempt_id, or neither.")
        prefix = self.endpoint.removesuffix("/")
        version = "/v1" if prefix.endswith("/v1") else ""
        prefix = prefix.removesuffix("/v1")
        return f"{prefix}/rollout/{rollout_id}/attempt/{attempt_id}{version}"

    def with_attempted_rollout(self, rollout: AttemptedRollout) -> LLM:
        """Return a plain `LLM` whose endpoint carries this attempt's ids."""
        return LLM(
            endpoint=self.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id),
            model=self.model,
            api_key=self.api_key,
            sampling_parameters=self.sampling_parameters,
        )


class PromptTemplate(Resource):
    """A text with placeholders that an algorithm may rewrite."""

    resource_type: Literal["prompt_template"] = "prompt_template"
    template: str
    engine: Literal["jinja", "f-string", "poml"]
    """How placeholders are written; only `f-string` can be filled in by `format`."""

    def format(self, **kwargs: Any) -> str:
        """Fill in the placeholders.

        Raises:
            NotImplementedError: The engine is not `f-string`; render such a template with its
                own library.
            KeyError: A placeholder has no value.
        """
        if self.engine != "f-string":
            raise NotImplementedError(
                f"format() fills in f-string templates; render a {self.engine} template with "
                f"the {self.engine} library."
            )
        return self.template.format(**kwargs)


ResourceUnion = Annotated[LLM | ProxyLLM | PromptTemplate, Field(discriminator="resource_type")]
NamedResources = dict[str, ResourceUnion]
"""Resources by name; the order of insertion is kept."""


class ResourcesUpdate(BaseModel):
    """One immutable snapshot of named resources."""

    resources_id: str
    create_time: float
    """Unix seconds when version 1 was made."""
    update_time: float
    """Unix seconds when this version was made."""
    version: int
    """From 1. Older versions stay readable as `<resources_id>@<version>`."""
    resources: NamedResources
