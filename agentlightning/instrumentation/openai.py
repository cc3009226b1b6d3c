"""Recording the calls of OpenAI's client library, through OpenInference or OpenTelemetry."""

from typing import Any

from agentlightning.instrumentation.client_library import ClientLibrary

__all__ = ["instrument_openai", "uninstrument_openai"]

LIBRARY = ClientLibrary(
    "openai",
    # First because it keeps the whole answer, token ids included.
    (
        "openinference-instrumentation-openai",
        "openinference.instrumentation.openai",
        "OpenAIInstrumentor",
    ),
    (
        "opentelemetry-instrumentation-openai",
        "opentelemetry.instrumentation.openai",
        "OpenAIInstrumentor",
    ),
)


def instrument_openai(provider: Any = None) -> None:
    """Record the library's calls as spans; see `ClientLibrary.instrument`."""
    LIBRARY.instrument(provider)


def uninstrument_openai() -> None:
    """Undo one `instrument_openai`; harmless when there was none."""
    LIBRARY.uninstrument()
