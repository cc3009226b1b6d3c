"""Agents: what a user writes, as a class or as a decorated function."""

from agentlightning.litagent.base import LitAgent, is_v0_1_rollout_api
from agentlightning.litagent.decorator import (
    FunctionalLitAgent,
    llm_rollout,
    prompt_rollout,
    rollout,
)

__all__ = [
    "FunctionalLitAgent",
    "LitAgent",
    "is_v0_1_rollout_api",
    "llm_rollout",
    "prompt_rollout",
    "rollout",
]
