"""Scopes keep spans and pass them on."""

import contextvars

from agentlightning.tracer.scope import TraceScope, current_scope, enter_scope, last_scope
from tests.support.spans import make_span


def scope(**given):
    return TraceScope(object(), "ro-1", "at-1", None, **given)


def test_entering_and_leaving():
    """The current scope is restored, and the one left is remembered, in this context only."""

    def body():
        outer, inner = scope(), scope()
        before = enter_scope(outer)
        assert enter_scope(inner) is outer
        assert current_scope() is inner
        enter_scope(outer)
        assert last_scope() is inner
        enter_scope(before)
        assert current_scope() is None
        assert last_scope() is outer

    contextvars.Context().run(body)
    assert current_scope() is None


def test_local_spans_are_numbered():
    """Without a store, spans are numbered as they end; an outer scope gets them too."""
    outer = scope()
    inner = scope(outer=outer)
    outer.record(make_span("a"))
    inner.record(make_span("b"))
    assert [(s.span_id, s.sequence_id) for s in outer.spans()] == [("a", 1), ("b", 2)]
    assert [s.span_id for s in inner.spans()] == ["b"]
