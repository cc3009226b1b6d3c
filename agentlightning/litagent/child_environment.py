"""The environment of a child process that calls a model: little of ours, and where its model is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from agentlightning.tracer.child import attempt_environment
from agentlightning.types import LLM, AttemptedRollout, Rollout

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["PASSED_ON", "attempt_variables", "chosen", "model_variables"]

PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SYSTEMROOT", "PATHEXT", "COMSPEC")
"""What a child gets of this process's environment: what programs need to run, no secrets."""

_NO_KEY = "not-needed"
"""Clients insist on a key, also where the server asks for none."""


def chosen(environment: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return those variables that are named and set.

    Example:
        >>> chosen({"PATH": "/bin", "AWS_SECRET": "s"}, ["PATH", "TZ"])
        {'PATH': '/bin'}
    """
    return {name: environment[name] for name in names if name in environment}


def model_variables(llm: LLM) -> dict[str, str]:
    """Return what tells clients of OpenAI's and Anthropic's formats where their model is.

    Programs that know several models by name get this one under each name.

    Example:
        >>> found = model_variables(LLM(endpoint="http://h/rollout/r/attempt/a/v1", model="m"))
        >>> found["OPENAI_BASE_URL"], found["ANTHROPIC_BASE_URL"]
        ('http://h/rollout/r/attempt/a/v1', 'http://h/rollout/r/attempt/a')
    """
    # Anthropic's clients add the version to the URL by themselves.
    root = llm.endpoint.removesuffix("/").removesuffix("/v1")
    key = llm.api_key or _NO_KEY
    names = ("OPUS", "SONNET", "HAIKU")
    return {
        "OPENAI_BASE_URL": llm.endpoint,
        "OPENAI_API_BASE": llm.endpoint,
        "OPENAI_API_KEY": key,
        "OPENAI_MODEL": llm.model,
        "ANTHROPIC_BASE_URL": root,
        "ANTHROPIC_API_KEY": key,
        "ANTHROPIC_AUTH_TOKEN": key,
        "ANTHROPIC_MODEL": llm.model,
        "ANTHROPIC_SMALL_FAST_MODEL": llm.model,
        **{f"ANTHROPIC_DEFAULT_{name}_MODEL": llm.model for name in names},
        "CLAUDE_CODE_SUBAGENT_MODEL": llm.model,
    }


def attempt_variables(rollout: Rollout, store: LightningStore | None) -> dict[str, str]:
    """Return which rollout and attempt this is, and where spans go, also for OpenTelemetry's SDKs."""
    mode = {"AGL_MODE": rollout.mode or ""}
    if not isinstance(rollout, AttemptedRollout):
        return {"AGL_ROLLOUT_ID": rollout.rollout_id, **mode}
    return {**mode, **attempt_environment(rollout.rollout_id, rollout.attempt.attempt_id, store)}
