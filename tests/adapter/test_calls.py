"""Captured calls are found among spans."""

import logging

from agentlightning.adapter.calls import find_calls
from agentlightning.semconv import CallAttributes
from tests.support.spans import make_call, make_span


def test_calls_come_back_whole_and_by_end_time():
    """Every captured call is returned as it was recorded, in the order of the ends."""
    late, early = make_call("ca-1", end=5.0), make_call("ca-2", end=2.0, outcome="error")
    assert find_calls([late.to_span(), make_span("x"), early.to_span()]) == [early, late]


def test_an_unreadable_record_is_reported(caplog):
    """A record that is no record is left out, with a warning that names the span."""
    broken = make_call("ca-1").to_span()
    broken.attributes[CallAttributes.RECORD.value] = "{"
    with caplog.at_level(logging.WARNING):
        assert find_calls([broken]) == []
    assert [r.__dict__["span_id"] for r in caplog.records] == [broken.span_id]
