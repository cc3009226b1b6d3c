"""The OpenTelemetry utilities are all under their 0.3.0 name."""

from agentlightning.utils import otel


def test_every_name_is_there():
    """Everything that 0.3.0 documents can be imported from one module."""
    documented = [
        "full_qualified_name",
        "get_tracer_provider",
        "get_tracer",
        "get_span_processors",
        "make_tag_attributes",
        "extract_tags_from_attributes",
        "make_link_attributes",
        "extract_links_from_attributes",
        "query_linked_spans",
        "filter_attributes",
        "filter_and_unflatten_attributes",
        "flatten_attributes",
        "unflatten_attributes",
        "sanitize_attribute_value",
        "sanitize_attributes",
        "sanitize_list_attribute_sanity",
        "check_attributes_sanity",
        "format_exception_attributes",
    ]
    assert sorted(otel.__all__) == sorted(documented)
    assert all(callable(getattr(otel, name)) for name in documented)
