"""Adapters: the spans of a rollout in, training data out. Pure translations, without I/O."""

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_exports

if TYPE_CHECKING:
    from agentlightning.adapter.base import Adapter, OtelTraceAdapter, TraceAdapter
    from agentlightning.adapter.messages import TraceToMessages
    from agentlightning.adapter.triplet import (
        LlmProxyTraceToTriplet,
        TracerTraceToTriplet,
        TraceToTripletBase,
    )

__all__ = [
    "Adapter",
    "LlmProxyTraceToTriplet",
    "OtelTraceAdapter",
    "TraceAdapter",
    "TraceToMessages",
    "TraceToTripletBase",
    "TracerTraceToTriplet",
]

_TRIPLET = "agentlightning.adapter.triplet"

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Adapter": "agentlightning.adapter.base",
        "LlmProxyTraceToTriplet": _TRIPLET,
        "OtelTraceAdapter": "agentlightning.adapter.base",
        "TraceAdapter": "agentlightning.adapter.base",
        "TraceToMessages": "agentlightning.adapter.messages",
        "TraceToTripletBase": _TRIPLET,
        "TracerTraceToTriplet": _TRIPLET,
    },
)
