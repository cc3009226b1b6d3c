"""Tracers: they record what an agent does as spans and bring these to the store."""

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_exports
from agentlightning.tracer.base import (
    Tracer,
    clear_active_tracer,
    get_active_tracer,
    set_active_tracer,
)
from agentlightning.tracer.dummy import DummyTracer

if TYPE_CHECKING:
    from agentlightning.tracer.agentops import AgentOpsTracer
    from agentlightning.tracer.child import continue_trace, trace_environment
    from agentlightning.tracer.otel import OtelTracer

__all__ = [
    "AgentOpsTracer",
    "DummyTracer",
    "OtelTracer",
    "Tracer",
    "clear_active_tracer",
    "continue_trace",
    "get_active_tracer",
    "set_active_tracer",
    "trace_environment",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AgentOpsTracer": "agentlightning.tracer.agentops",
        "OtelTracer": "agentlightning.tracer.otel",
        "continue_trace": "agentlightning.tracer.child",
        "trace_environment": "agentlightning.tracer.child",
    },
)
