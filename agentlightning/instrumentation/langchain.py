"""Recording what LangChain and LangGraph run, through OpenInference."""

from typing import Any

from agentlightning.instrumentation.client_library import ClientLibrary

__all__ = ["instrument_langchain", "uninstrument_langchain"]

LIBRARY = ClientLibrary(
    "langchain_core",
    (
        "openinference-instrumentation-langchain",
        "openinference.instrumentation.langchain",
        "LangChainInstrumentor",
    ),
    (
        "opentelemetry-instrumentation-langchain",
        "opentelemetry.instrumentation.langchain",
        "LangchainInstrumentor",
    ),
)


def instrument_langchain(provider: Any = None) -> None:
    """Record chains, graphs, tools and model calls; see `ClientLibrary.instrument`."""
    LIBRARY.instrument(provider)


def uninstrument_langchain() -> None:
    """Undo one `instrument_langchain`; harmless when there was none."""
    LIBRARY.uninstrument()
