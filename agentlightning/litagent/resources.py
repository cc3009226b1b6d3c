"""Finding, among published resources, those that an agent asks for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from agentlightning.errors import ConfigurationError
from agentlightning.types import LLM, AttemptedRollout, PromptTemplate, ProxyLLM, Rollout

__all__ = ["first_resource", "llm_of_attempt"]

logger = logging.getLogger(__name__)

ResourceT = TypeVar("ResourceT", LLM, PromptTemplate)


def first_resource(resources: Mapping[str, Any], kind: type[ResourceT]) -> ResourceT:
    """Return the first resource of a type; a warning says so where there are several.

    Raises:
        ConfigurationError: There is none.
    """
    found = {name: value for name, value in resources.items() if isinstance(value, kind)}
    if not found:
        published = ", ".join(resources) or "none"
        raise ConfigurationError(
            f"The agent needs a resource of type {kind.__name__}, but the published resources "
            f"are: {published}. Publish one, or pass initial_resources to the Trainer."
        )
    name, value = next(iter(found.items()))
    if len(found) > 1:
        logger.warning(
            "several resources of the same type; the first one is used",
            extra={"resource_type": kind.__name__, "used": name, "all": list(found)},
        )
    return value


def llm_of_attempt(llm: LLM, rollout: Rollout) -> LLM:
    """Return the model with a URL that names the attempt, where our gateway serves it.

    Raises:
        ConfigurationError: The gateway serves it, and the rollout comes without its attempt.
    """
    if not isinstance(llm, ProxyLLM):
        return llm
    if not isinstance(rollout, AttemptedRollout):
        raise ConfigurationError(
            "A ProxyLLM can be turned into an LLM only for an AttemptedRollout; pass the rollout "
            "with its attempt, or decorate with llm_rollout(strip_proxy=False)."
        )
    return llm.with_attempted_rollout(rollout)
