"""Trace scopes: whose spans are whose. A scope is carried by context, never by the process."""

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field

from agentlightning.tracer.delivery import Delivery
from agentlightning.tracer.lane import Lane
from agentlightning.types.tracer import OtelResource, Span

__all__ = ["TraceScope", "current_scope", "enter_scope", "last_scope"]

_CURRENT: ContextVar["TraceScope | None"] = ContextVar("agentlightning_scope", default=None)
_LAST: ContextVar["TraceScope | None"] = ContextVar("agentlightning_last_scope", default=None)


@dataclass(slots=True, weakref_slot=True, eq=False)
class TraceScope:
    """One trace context: the attempt it belongs to, and the spans that ended in it.

    Spans may end in any thread, and also after the context was left.
    """

    owner: object
    """The tracer that opened it."""
    rollout_id: str
    attempt_id: str
    trace_id: int | None
    """Trace id of spans without a parent; None for a random one each."""
    delivery: Delivery | None = None
    lane: Lane | None = None
    """Where spans are exported through; None keeps them here only."""
    outer: "TraceScope | None" = None
    """The scope around one without ids of its own; it delivers for both."""
    resources: dict[int, tuple[object, OtelResource]] = field(
        default_factory=dict[int, tuple[object, OtelResource]]
    )
    """For each provider's resource, by identity: itself, and ours with this attempt's ids."""
    _spans: list[Span] = field(default_factory=list[Span])
    # Reentrant: garbage that is collected inside may end a span of the same scope as it goes.
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def record(self, span: Span) -> None:
        """Keep an ended span and send it on its way to the store; never blocks."""
        with self._lock:
            self._spans.append(span)
            if self.lane is None and self.outer is None:
                span.sequence_id = len(self._spans)
        if self.outer is not None:
            self.outer.record(span)
        elif self.lane is not None and self.delivery is not None:
            self.lane.put(self.delivery, span)

    def spans(self) -> list[Span]:
        """Return the spans that ended so far, in the order they ended."""
        with self._lock:
            return list(self._spans)


def current_scope() -> TraceScope | None:
    """Return the scope of the current context, or None."""
    return _CURRENT.get()


def last_scope() -> TraceScope | None:
    """Return the scope that was left last in the current context, or None."""
    return _LAST.get()


def enter_scope(scope: TraceScope | None) -> TraceScope | None:
    """Make `scope` the current context's, and return the one before, to be entered again."""
    previous = _CURRENT.get()
    _CURRENT.set(scope)
    if previous is not None:
        _LAST.set(previous)
    return previous
