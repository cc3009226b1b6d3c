"""Tags and links are written to and read from attributes."""

import pytest

from agentlightning.semconv import LinkPydanticModel
from agentlightning.utils.links import (
    extract_links_from_attributes,
    extract_tags_from_attributes,
    make_link_attributes,
    make_tag_attributes,
    query_linked_spans,
)
from tests.support.spans import make_span


def test_tags_come_back_in_order():
    """More than ten tags keep their order; a list under the bare key is read too."""
    tags = [f"t{n}" for n in range(12)]
    assert extract_tags_from_attributes(make_tag_attributes(tags)) == tags
    assert extract_tags_from_attributes({"agentlightning.tag": ["a", "b"]}) == ["a", "b"]
    assert extract_tags_from_attributes({"agentlightning.tags": "x"}) == []


def test_links_come_back():
    """Links are read as they were made; incomplete ones are left out."""
    attributes = make_link_attributes({"span_id": "x", "conversation": "7"})
    attributes["agentlightning.link.2.key_match"] = "half"
    assert extract_links_from_attributes(attributes) == [
        LinkPydanticModel(key_match="span_id", value_match="x"),
        LinkPydanticModel(key_match="conversation", value_match="7"),
    ]
    assert make_link_attributes({"a": "b"}, start=3) == {
        "agentlightning.link.3.key_match": "a",
        "agentlightning.link.3.value_match": "b",
    }
    with pytest.raises(ValueError, match="a"):
        make_link_attributes({"a": 1})  # type: ignore[dict-item]  # the point


def test_all_links_must_match():
    """A span is linked when every link matches it, ids included."""
    spans = [make_span("x", conversation="7"), make_span("y", conversation="7"), make_span("z")]

    def linked(**links):
        made = extract_links_from_attributes(make_link_attributes(links))
        return [span.span_id for span in query_linked_spans(spans, made)]

    assert linked(conversation="7") == ["x", "y"]
    assert linked(conversation="7", span_id="y") == ["y"]
    assert linked(trace_id="a" * 32) == ["x", "y", "z"]
    assert linked(span_id="z", conversation="7") == []
