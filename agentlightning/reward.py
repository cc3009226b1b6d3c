"""Deprecated place of the reward functions: they are in `agentlightning.emitter`.

Nothing is loaded, and no warning given, before a name is used.
"""

import importlib
import warnings
from typing import Any

_MOVED = frozenset(
    {
        "emit_reward",
        "find_final_reward",
        "find_reward_spans",
        "get_reward_value",
        "get_rewards_from_span",
        "is_reward_span",
        "reward",
    }
)


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"agentlightning.reward.{name} has moved to agentlightning.emitter.{name}.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(importlib.import_module("agentlightning.emitter.reward"), name)
