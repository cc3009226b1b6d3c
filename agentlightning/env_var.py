"""The environment variables of 0.3.0 and their typed readers.

Variables of our own are read by `agentlightning.settings`; nothing else reads the environment.
"""

import os
from enum import Enum

from agentlightning.errors import ConfigurationError

__all__ = [
    "LightningEnvVar",
    "resolve_bool_env_var",
    "resolve_int_env_var",
    "resolve_str_env_var",
]

_TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
_FALSE_WORDS = frozenset({"0", "false", "no", "off"})


class LightningEnvVar(Enum):
    """Environment variables that change how components behave by default."""

    AGL_EMITTER_DEBUG = "AGL_EMITTER_DEBUG"
    """Whether emitters log what they emit."""

    AGL_MANAGED_STORE = "AGL_MANAGED_STORE"
    """Whether an execution strategy wraps the store it is given."""

    AGL_CURRENT_ROLE = "AGL_CURRENT_ROLE"
    """`algorithm`, `runner` or `both`: the part this process plays."""

    AGL_SERVER_HOST = "AGL_SERVER_HOST"
    """Host of the store server between algorithm and runners."""

    AGL_SERVER_PORT = "AGL_SERVER_PORT"
    """Port of the store server between algorithm and runners."""


def resolve_bool_env_var(
    env_var: LightningEnvVar, override: bool | None = None, fallback: bool | None = None
) -> bool | None:
    """Return `override` if given, else the variable's value, else `fallback`.

    Raises:
        ConfigurationError: The variable holds none of 1/true/yes/on/0/false/no/off.
    """
    if override is not None:
        return override
    raw = os.environ.get(env_var.value)
    if raw is None:
        return fallback
    word = raw.strip().lower()
    if word in _TRUE_WORDS:
        return True
    if word in _FALSE_WORDS:
        return False
    raise ConfigurationError(
        f"{env_var.value}={raw!r} is not a yes or no: use 1/true/yes/on or 0/false/no/off."
    )


def resolve_int_env_var(
    env_var: LightningEnvVar, override: int | None = None, fallback: int | None = None
) -> int | None:
    """Return `override` if given, else the variable's value as an int, else `fallback`.

    Raises:
        ConfigurationError: The variable is not a whole number.
    """
    if override is not None:
        return override
    raw = os.environ.get(env_var.value)
    if raw is None:
        return fallback
    try:
        return int(raw)
    except ValueError as error:
        raise ConfigurationError(f"{env_var.value}={raw!r} is not a whole number.") from error


def resolve_str_env_var(
    env_var: LightningEnvVar, override: str | None = None, fallback: str | None = None
) -> str | None:
    """Return `override` if given, else the variable's value, else `fallback`."""
    if override is not None:
        return override
    return os.environ.get(env_var.value, fallback)
