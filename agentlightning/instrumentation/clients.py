"""Recording the calls of every client library that is installed with an instrumentation."""

import logging
from typing import Any

from agentlightning.errors import MissingExtraError
from agentlightning.instrumentation import anthropic, langchain, openai

__all__ = ["instrument_clients", "require_instrumentation", "uninstrument_clients"]

logger = logging.getLogger(__name__)

_LIBRARIES = (openai.LIBRARY, anthropic.LIBRARY, langchain.LIBRARY)


def require_instrumentation() -> None:
    """Check that at least one library could be instrumented.

    Raises:
        MissingExtraError: None could; the message names the extra.
    """
    if not any(library.can_be_instrumented for library in _LIBRARIES):
        raise MissingExtraError("openinference-instrumentation-openai", "instrumentation")


def instrument_clients(provider: Any = None) -> list[str]:
    """Record the calls of OpenAI, Anthropic and LangChain clients, as far as they are installed.

    Again is harmless, and counted. A library that is installed without an instrumentation is
    left alone, and a warning says so.

    Args:
        provider: OpenTelemetry tracer provider that gets the spans; None for the global one.

    Returns:
        The libraries that are instrumented now.
    """
    chosen = [library for library in _LIBRARIES if library.can_be_instrumented]
    for library in _LIBRARIES:
        if library.is_installed and library not in chosen:
            logger.warning(
                "library is not instrumented: install the extra `instrumentation`",
                extra={"library": library.module},
            )
    for library in chosen:
        library.instrument(provider)
    return [library.module for library in chosen]


def uninstrument_clients() -> None:
    """Undo one `instrument_clients`."""
    for library in _LIBRARIES:
        library.uninstrument()
