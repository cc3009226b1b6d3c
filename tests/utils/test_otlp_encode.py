"""Tests of writing our spans in OpenTelemetry's format, read back by our own reader."""

import pytest

from agentlightning.types import OtelResource, Span
from agentlightning.utils.otlp_encode import encode_spans
from agentlightning.utils.otlp_spans import read_spans
from tests.utils.test_otlp_export import rich_span


def span(**changes: object) -> Span:
    """Return a plain span."""
    return Span.from_attributes(
        **{"attributes": {}, "rollout_id": "ro", "attempt_id": "at", "name": "n", **changes}  # type: ignore[arg-type]
    )


def test_a_span_is_read_back_as_it_was():
    """Everything that a span holds survives, but for an infinity, which becomes its name."""
    sent = rich_span("ro-1", "at-1")
    sent.sequence_id = 7
    found = read_spans(encode_spans([sent]))
    assert (found.unattributed, found.malformed) == (0, 0)
    got = found.spans[0].model_dump()
    names = [name for name in got["attributes"] if name.startswith("agentlightning.")]
    assert {name.rpartition(".")[2]: got["attributes"].pop(name) for name in names} == {
        "rollout_id": "ro-1",
        "attempt_id": "at-1",
        "span_sequence_id": 7,
    }
    expected = sent.model_dump()
    expected["attributes"]["odd"] = "Infinity"
    assert got == expected


def test_spans_of_equal_resources_travel_together():
    """A resource is written once for all of its spans."""
    one, other = (
        OtelResource(attributes={"a": 1}, schema_url=""),
        OtelResource(attributes={"a": 2}, schema_url=""),
    )
    request = encode_spans([span(resource=one), span(resource=other), span(resource=one)])
    assert [len(group.scope_spans[0].spans) for group in request.resource_spans] == [2, 1]


@pytest.mark.parametrize("odd", ["", "xyz", "ab", "zz" * 16])
def test_ids_of_other_forms_are_replaced(odd: str):
    """Ids that OpenTelemetry cannot hold become ids that are always the same for them."""
    request = encode_spans([span(trace_id=odd or "?", span_id=odd or "?") for _ in range(2)])
    first, second = request.resource_spans[0].scope_spans[0].spans
    assert (len(first.trace_id), len(first.span_id)) == (16, 8)
    assert (first.trace_id, first.span_id) == (second.trace_id, second.span_id)


def test_values_that_the_format_lacks():
    """Huge integers and half characters become text; times stay within their range."""
    sent = span(
        attributes={"huge": 2**70, "half": "\ud800", "empty": []}, start_time=-1.0, end_time=1e30
    )
    (got,) = read_spans(encode_spans([sent])).spans
    assert (got.attributes["huge"], got.attributes["half"]) == (str(2**70), "?")
    assert got.attributes["empty"] == []
    assert got.start_time is None
