"""Tests of reading spans without pydantic: the same answers, whatever comes."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentlightning.store.http.errors import UnprocessableError
from agentlightning.store.http.wire import decode
from agentlightning.store.http.wire_span import AnsweredSpans, encode_spans, span_from_wire
from agentlightning.types import Span
from tests.store.http.test_wire import json_values, spans

odd = st.one_of(
    json_values,
    st.sampled_from([True, 0, -1, 1.5, "x", [], {}, [1, "a"], {"status_code": "NO"}]),
    st.dictionaries(
        st.sampled_from(
            ["status_code", "description", "attributes", "schema_url", "trace_id", "span_id",
             "is_remote", "trace_state"]
        ),
        json_values,
    ),
)  # fmt: skip


@given(st.lists(spans, max_size=4))
def test_answers_are_read_as_they_were_sent(sent: list[Span]):
    """What the client builds of an answer equals the spans that were sent."""
    assert [*map(AnsweredSpans(), decode(encode_spans(sent)))] == sent


@given(spans, st.sampled_from(sorted(Span.model_fields)), odd)
def test_wrong_parts_are_found_as_pydantic_finds_them(span: Span, name: str, value: Any):
    """A span with one odd part is refused, or read, exactly as by pydantic."""
    raw = {**json.loads(span.model_dump_json()), name: value}
    try:
        expected = Span.model_validate(raw)
    except ValidationError:
        expected = None
    try:
        found = span_from_wire(json.loads(json.dumps(raw)))
    except (ValidationError, UnprocessableError):
        found = None
    if expected is not None and not 0 <= expected.sequence_id <= 2**53:
        expected = None
    # Null attributes are left out on the wire, and refused by the model.
    if expected is not None or name not in ("attributes", "events"):
        assert found == expected
