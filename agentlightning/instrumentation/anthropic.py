"""Recording the calls of Anthropic's client library, through OpenInference or OpenTelemetry."""

from typing import Any

from agentlightning.instrumentation.client_library import ClientLibrary

__all__ = ["instrument_anthropic", "uninstrument_anthropic"]

LIBRARY = ClientLibrary(
    "anthropic",
    # First because it keeps the whole answer, token ids included.
    (
        "openinference-instrumentation-anthropic",
        "openinference.instrumentation.anthropic",
        "AnthropicInstrumentor",
    ),
    (
        "opentelemetry-instrumentation-anthropic",
        "opentelemetry.instrumentation.anthropic",
        "AnthropicInstrumentor",
    ),
)


def instrument_anthropic(provider: Any = None) -> None:
    """Record the library's calls as spans; see `ClientLibrary.instrument`."""
    LIBRARY.instrument(provider)


def uninstrument_anthropic() -> None:
    """Undo one `instrument_anthropic`; harmless when there was none."""
    LIBRARY.uninstrument()
