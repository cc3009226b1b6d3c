"""Calling users' functions that declare fewer parameters than they are offered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["fitting_arguments"]


def fitting_arguments(func: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the offered keyword arguments that a function takes.

    Example:
        >>> fitting_arguments(lambda *, rollout: None, {"rollout": 1, "agent": 2})
        {'rollout': 1}
    """
    parameters = inspect.signature(func).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(offered)
    names = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return {name: value for name, value in offered.items() if name in names}
