"""vLLM: since 0.10.2 its server sends token ids when asked, so that nothing is to be changed."""

import re
from importlib.metadata import version

from agentlightning.errors import ConfigurationError
from agentlightning.instrumentation.patches import require_library

__all__ = ["instrument_vllm", "uninstrument_vllm"]

_FIRST_WITH_IDS = (0, 10, 2)


def instrument_vllm() -> None:
    """Check that the installed vLLM sends token ids (`return_token_ids` in a request).

    Our gateway asks for them by itself.

    Raises:
        ConfigurationError: vLLM is not installed, or older than 0.10.2.
    """
    require_library("vllm")
    found = version("vllm")
    if _numbers(found) < _FIRST_WITH_IDS:
        raise ConfigurationError(f"vLLM {found} sends no token ids: update it to 0.10.2 or later.")


def uninstrument_vllm() -> None:
    """Do nothing; there is nothing to undo."""


def _numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `0.10.2rc1+cu128` is (0, 10, 2)."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()
