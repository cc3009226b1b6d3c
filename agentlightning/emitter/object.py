"""Emitting values: any JSON-able object, and bytes, as a span from which they can be read back."""

import base64
import json
from typing import Any

from agentlightning.emitter.emission import emit, flat_attributes
from agentlightning.errors import TracerError
from agentlightning.semconv import AGL_OBJECT, LightningSpanAttributes
from agentlightning.types.tracer import Attributes, SpanCoreFields, SpanLike, TraceStatus
from agentlightning.utils.attributes import full_qualified_name

__all__ = ["emit_object", "encode_object", "get_object_value"]

_TYPE = LightningSpanAttributes.OBJECT_TYPE.value
_LITERAL = LightningSpanAttributes.OBJECT_LITERAL.value
_JSON = LightningSpanAttributes.OBJECT_JSON.value


def emit_object(
    object: Any,
    attributes: dict[str, Any] | None = None,
    propagate: bool = True,
) -> SpanCoreFields:
    """Record a value as a span.

    Args:
        object: A string, number, boolean, bytes, or anything that JSON can express.
        attributes: More attributes, flattened.
        propagate: Whether the span goes to the active tracer.

    Raises:
        TracerError: JSON cannot express the value, or there is no active tracer here.
    """
    encoded = {**flat_attributes(attributes), **encode_object(object)}
    ok = TraceStatus(status_code="OK")
    return emit(AGL_OBJECT, encoded, propagate=propagate, status=ok)


def encode_object(value: Any) -> Attributes:
    """Return the attributes that hold a value; `get_object_value` gives it back.

    Raises:
        TracerError: JSON cannot express the value.
    """
    if isinstance(value, str | int | float | bool):
        return {_TYPE: type(value).__name__, _LITERAL: str(value)}
    if isinstance(value, bytes):
        return {_TYPE: "bytes", _LITERAL: base64.b64encode(value).decode("ascii")}
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise TracerError(
            f"A value of type {type(value).__name__} cannot be emitted, since JSON cannot express "
            f"it ({error}): convert it first."
        ) from error
    return {_TYPE: full_qualified_name(type(value)), _JSON: text}


def get_object_value(span: SpanLike) -> Any:
    """Return the value of an object span, or None when it holds none or a broken one."""
    attributes = span.attributes or {}
    literal, text = attributes.get(_LITERAL), attributes.get(_JSON)
    try:
        if isinstance(text, str):
            return json.loads(text)
        if isinstance(literal, str):
            return _decode_literal(literal, attributes.get(_TYPE))
    except ValueError:
        return None
    return None


def _decode_literal(literal: str, kind: Any) -> Any:
    if kind == "int":
        return int(literal)
    if kind == "float":
        return float(literal)
    if kind == "bool":
        return literal == "True"
    if kind == "bytes":
        return base64.b64decode(literal, validate=True)
    return literal
