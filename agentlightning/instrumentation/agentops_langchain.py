"""AgentOps with LangChain and LangGraph: chains keep their names, model calls stay recorded."""

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from opentelemetry import context as otel_context

from agentlightning._internal.extra import require_extra
from agentlightning.instrumentation.patches import Patch, Patches, require_library

__all__ = ["instrument_agentops_langchain", "uninstrument_agentops_langchain"]

_CALLBACK = "agentops.integration.callbacks.langchain.callback"


def instrument_agentops_langchain() -> None:
    """Put AgentOps right for today's LangChain and LangGraph.

    AgentOps stops recording OpenAI's and Anthropic's clients as soon as LangGraph is imported;
    that is prevented. Its callback handler calls every chain `unknown_chain`, and complains of
    contexts in LangGraph; that is mended. It may be called several times, and lasts until it was undone as often.

    Raises:
        MissingExtraError: AgentOps is not installed.
        ConfigurationError: LangChain is not installed.
    """
    require_extra("agentops", "agentops")
    require_library("langchain_core")
    _LIBRARIES.use()
    _CALLBACKS.use()


def uninstrument_agentops_langchain() -> None:
    """Undo one `instrument_agentops_langchain`; harmless when there was none."""
    _CALLBACKS.release()
    _LIBRARIES.release()


def _library_patches() -> Iterator[Patch]:
    module = importlib.import_module("agentops.instrumentation")
    yield module, "AGENTIC_LIBRARIES", _without_langgraph
    yield module, "TARGET_PACKAGES", lambda names: names - {"langgraph"}


def _without_langgraph(libraries: dict[str, Any]) -> dict[str, Any]:
    return {name: how for name, how in libraries.items() if name != "langgraph"}


def _callback_patches() -> Iterator[Patch]:
    module = importlib.import_module(_CALLBACK)
    yield module.LangchainCallbackHandler, "on_chain_start", _with_name
    # Why: LangGraph runs callbacks in copies of the context, whose tokens are no good elsewhere.
    yield module, "attach", lambda _: _attach
    yield module, "detach", lambda _: otel_context.attach


def _attach(context: otel_context.Context) -> otel_context.Context:
    """Make a context current, and return the one before instead of a token."""
    before = otel_context.get_current()
    otel_context.attach(context)
    return before


_LIBRARIES = Patches(_library_patches)
_CALLBACKS = Patches(_callback_patches, after=_CALLBACK)


def _with_name(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def on_chain_start(self: Any, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        name = kwargs.get("name")
        if not serialized and name:
            serialized = {"name": name, "id": name}
        original(self, serialized, inputs, **kwargs)

    return on_chain_start
