"""Extras: optional dependencies, asked for by name before something that needs them begins."""

import importlib.util

from agentlightning.errors import MissingExtraError

RL_LIBRARIES = ("numpy", "torch", "transformers", "peft")
"""What sampling and training in this process need; the extra `rl`."""


def require_extra(extra: str, *libraries: str) -> None:
    """Check that libraries can be imported, without importing them.

    Args:
        extra: The extra of this package that brings them.
        *libraries: Their top-level module names.

    Raises:
        MissingExtraError: One is not installed; the message says how to install it.
    """
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise MissingExtraError(library, extra)
