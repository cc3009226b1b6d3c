"""Compat 0.3.0: the import path of `LitAgent`; see `agentlightning.litagent.base`."""

from agentlightning.litagent.base import LitAgent, is_v0_1_rollout_api

__all__ = ["LitAgent", "is_v0_1_rollout_api"]
