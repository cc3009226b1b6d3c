"""Instrumentation: making libraries say what they do, or carry context; one module each.

Nothing here is switched on by importing it. `instrument_all` is about libraries that trace
themselves (AgentOps, LiteLLM): they get to say token ids. To have the calls of client libraries
recorded, use `OtelTracer(instrument=True)`, or `clients.instrument_clients`.
"""

from agentlightning.instrumentation.bridges import (
    AGENTOPS_INSTALLED,
    AGENTOPS_LANGCHAIN_INSTALLED,
    LITELLM_INSTALLED,
    VLLM_INSTALLED,
    WEAVE_INSTALLED,
)
from agentlightning.instrumentation.bridges import instrument_bridges as instrument_all
from agentlightning.instrumentation.bridges import uninstrument_bridges as uninstrument_all

__all__ = [
    "AGENTOPS_INSTALLED",
    "AGENTOPS_LANGCHAIN_INSTALLED",
    "LITELLM_INSTALLED",
    "VLLM_INSTALLED",
    "WEAVE_INSTALLED",
    "instrument_all",
    "uninstrument_all",
]
