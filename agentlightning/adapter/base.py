"""What an adapter is: a pure translation of the traces of a rollout into training data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentlightning.semconv import LightningSpanAttributes
from agentlightning.types.tracer import Span, SpanLike

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["Adapter", "OtelTraceAdapter", "TraceAdapter", "in_time", "own_spans"]

T_from = TypeVar("T_from")
T_to = TypeVar("T_to")


class Adapter(Generic[T_from, T_to]):
    """Turns one kind of data into another; calling it does the same as `adapt`."""

    def __call__(self, source: T_from, /) -> T_to:
        """Do what `adapt` does."""
        return self.adapt(source)

    def adapt(self, source: T_from, /) -> T_to:
        """Translate `source`; implementations leave it as it is."""
        raise NotImplementedError


class OtelTraceAdapter(Adapter[Sequence["ReadableSpan"], T_to], Generic[T_to]):
    """An adapter of OpenTelemetry's own spans."""


class TraceAdapter(Adapter[Sequence[Span], T_to], Generic[T_to]):
    """An adapter of spans as the store keeps them."""


def in_time(spans: Sequence[Span]) -> list[Span]:
    """Return the spans that arrived before their attempt ended; nothing of it changes after."""
    return [s for s in spans if not s.attributes.get(LightningSpanAttributes.LATE.value)]


def own_spans(spans: Sequence[SpanLike]) -> list[Span]:
    """Return spans of either make as ours, OpenTelemetry's numbered by their position."""
    return [_own(span, position) for position, span in enumerate(spans)]


def _own(span: Any, position: int) -> Span:
    return span if isinstance(span, Span) else Span.from_opentelemetry(span, "", "", position)
