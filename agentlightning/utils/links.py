"""Tags on spans, and links from one span to others by what they must match. Pure functions."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentlightning.errors import ConfigurationError
from agentlightning.semconv import (
    LightningSpanAttributes,
    LinkAttributes,
    LinkPydanticModel,
)
from agentlightning.types.tracer import Attributes, SpanLike

__all__ = [
    "extract_links_from_attributes",
    "extract_tags_from_attributes",
    "make_link_attributes",
    "make_tag_attributes",
    "query_linked_spans",
    "span_identity",
]

_LINK = LightningSpanAttributes.LINK.value
_TAG = LightningSpanAttributes.TAG.value


def make_tag_attributes(tags: Sequence[str]) -> Attributes:
    """Return the attributes that put `tags` on a span.

    Example:
        >>> make_tag_attributes(["fast"])
        {'agentlightning.tag.0': 'fast'}
    """
    return {f"{_TAG}.{index}": tag for index, tag in enumerate(tags)}


def extract_tags_from_attributes(attributes: Mapping[str, Any]) -> list[str]:
    """Return the tags among a span's attributes, in their order."""
    return [str(value) for _, value in _indexed(attributes, _TAG)]


def make_link_attributes(links: Mapping[str, str], start: int = 0) -> Attributes:
    """Return the attributes that link a span to every span with these attribute values.

    Args:
        links: Attribute key to the value it must have; the keys `trace_id` and `span_id` stand
            for the span's own ids.
        start: Index of the first link, where the span has links already.

    Raises:
        ConfigurationError: A value is not a string.
    """
    attributes: Attributes = {}
    for index, (key, value) in enumerate(links.items(), start):
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers
            raise ConfigurationError(f"The value of link {key!r} is a string, not {value!r}.")
        attributes[f"{_LINK}.{index}.{LinkAttributes.KEY_MATCH.value}"] = key
        attributes[f"{_LINK}.{index}.{LinkAttributes.VALUE_MATCH.value}"] = value
    return attributes


def extract_links_from_attributes(attributes: Mapping[str, Any]) -> list[LinkPydanticModel]:
    """Return the complete links among a span's attributes, in their order."""
    parts: dict[int, dict[str, str]] = {}
    prefix = _LINK + "."
    for key, value in attributes.items():
        if not key.startswith(prefix):
            continue
        index, _, part = key[len(prefix) :].partition(".")
        if index.isdecimal():
            parts.setdefault(int(index), {})[part] = str(value)
    wanted = {LinkAttributes.KEY_MATCH.value, LinkAttributes.VALUE_MATCH.value}
    return [
        LinkPydanticModel.model_validate(fields)
        for _, fields in sorted(parts.items())
        if wanted <= fields.keys()
    ]


def span_identity(span: SpanLike) -> tuple[str, str]:
    """Return trace id and span id as hexadecimal, of a span of either make."""
    context = None if hasattr(span, "span_id") else span.get_span_context()  # type: ignore[union-attr]  # ReadableSpan
    if context is None:
        return getattr(span, "trace_id", ""), getattr(span, "span_id", "")
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def query_linked_spans(
    spans: Iterable[SpanLike], links: Sequence[LinkPydanticModel]
) -> list[SpanLike]:
    """Return the spans that match all of `links` exactly, in their order."""
    return [span for span in spans if all(_matches(span, link) for link in links)]


def _matches(span: SpanLike, link: LinkPydanticModel) -> bool:
    if link.key_match == "trace_id":
        return span_identity(span)[0] == link.value_match
    if link.key_match == "span_id":
        return span_identity(span)[1] == link.value_match
    return (span.attributes or {}).get(link.key_match) == link.value_match


def _indexed(attributes: Mapping[str, Any], prefix: str) -> Iterable[tuple[int, Any]]:
    """Yield index and value of `<prefix>.<index>` in order; also of a list under `prefix`."""
    whole = attributes.get(prefix)
    listed = enumerate(whole) if isinstance(whole, list | tuple) else ()
    dotted = prefix + "."
    numbered = (
        (int(key[len(dotted) :]), value)
        for key, value in attributes.items()
        if key.startswith(dotted) and key[len(dotted) :].isdecimal()
    )
    return itertools.chain(listed, sorted(numbered, key=lambda item: item[0]))
