"""Captured calls are read back from their spans."""

import logging

from agentlightning.adapter.call_record import read_call
from agentlightning.semconv import CallAttributes
from tests.support.spans import make_call, make_span


def test_a_call_comes_back_whole():
    """The record is as it was; a span of something else holds none."""
    call = make_call("ca-1", error="x", outcome="error")
    assert read_call(call.to_span()) == call
    assert read_call(make_span("a")) is None


def test_an_unreadable_record_is_reported(caplog):
    """A record that is no record is left out, with a warning that names the span."""
    broken = make_call("ca-1").to_span()
    broken.attributes[CallAttributes.RECORD.value] = "{"
    with caplog.at_level(logging.WARNING):
        assert read_call(broken) is None
    assert [r.__dict__["span_id"] for r in caplog.records] == [broken.span_id]
