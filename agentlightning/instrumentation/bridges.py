"""The libraries whose own tracing is made to say token ids: AgentOps, LiteLLM, vLLM, Weave."""

import logging
from collections.abc import Callable

from agentlightning.instrumentation import agentops, agentops_langchain, litellm, vllm
from agentlightning.instrumentation.patches import is_installed

__all__ = ["instrument_bridges", "uninstrument_bridges"]

logger = logging.getLogger(__name__)

Switch = Callable[[], None]


AGENTOPS_INSTALLED = is_installed("agentops")
LITELLM_INSTALLED = is_installed("litellm")
VLLM_INSTALLED = is_installed("vllm")
AGENTOPS_LANGCHAIN_INSTALLED = AGENTOPS_INSTALLED and is_installed("langchain_core")
WEAVE_INSTALLED = is_installed("weave")

_BRIDGES: tuple[tuple[str, bool, Switch, Switch], ...] = (
    ("agentops", AGENTOPS_INSTALLED, agentops.instrument_agentops, agentops.uninstrument_agentops),
    (
        "agentops_langchain",
        AGENTOPS_LANGCHAIN_INSTALLED,
        agentops_langchain.instrument_agentops_langchain,
        agentops_langchain.uninstrument_agentops_langchain,
    ),
    ("litellm", LITELLM_INSTALLED, litellm.instrument_litellm, litellm.uninstrument_litellm),
    ("vllm", VLLM_INSTALLED, vllm.instrument_vllm, vllm.uninstrument_vllm),
)


def instrument_bridges() -> None:
    """Instrument those of the libraries that are installed; again is harmless, and counted.

    Weave is not among them: its tracer takes its calls without changing it.
    """
    for name, is_there, switch_on, _ in _BRIDGES:
        if is_there:
            switch_on()
        else:
            logger.debug("library is not installed", extra={"library": name})


def uninstrument_bridges() -> None:
    """Undo one `instrument_bridges`."""
    for _, is_there, _, switch_off in _BRIDGES:
        if is_there:
            switch_off()
