"""Records as JSON text and back; the values come back as they went in, NaN included.

The text is ASCII: whatever a string holds, every database takes it.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from agentlightning.errors import InvalidRequestError
from agentlightning.types import OtelResource, Span, SpanContext, TraceStatus
from agentlightning.types.tracer import Event, Link

M = TypeVar("M", bound=BaseModel)


def _fields(record: BaseModel) -> dict[str, Any]:
    extra = record.__pydantic_extra__
    return {**vars(record), **extra} if extra else vars(record)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _fields(value)
    return to_jsonable_python(value)


def encode(record: BaseModel) -> str:
    """Return a record as JSON.

    Raises:
        InvalidRequestError: A value in it has no JSON form.
    """
    try:
        return json.dumps(_fields(record), default=_plain, separators=(",", ":"))
    except (TypeError, ValueError, PydanticSerializationError) as error:
        raise InvalidRequestError(
            f"{type(record).__name__} cannot be stored: {error}; use JSON values only."
        ) from error


def decode(model: type[M], payload: str) -> M:
    """Return the record that `encode` made this text of."""
    fields = json.loads(payload)
    if model is Span:
        return _span(model, fields)
    return model.model_validate(fields)


def _context(fields: dict[str, Any] | None) -> SpanContext | None:
    return None if fields is None else SpanContext.model_construct(**fields)


def _link(fields: dict[str, Any]) -> Link:
    context = SpanContext.model_construct(**fields.pop("context"))
    return Link.model_construct(context=context, **fields)


def _span(model: type[M], fields: dict[str, Any]) -> M:
    """Build a span from trusted fields.

    Perf: validating the union of attribute types takes several passes over each list of ids.
    """
    fields["status"] = TraceStatus.model_construct(**fields["status"])
    fields["context"] = _context(fields["context"])
    fields["parent"] = _context(fields["parent"])
    fields["resource"] = OtelResource.model_construct(**fields["resource"])
    if fields["events"]:
        fields["events"] = [Event.model_construct(**event) for event in fields["events"]]
    if fields["links"]:
        fields["links"] = [_link(link) for link in fields["links"]]
    return model.model_construct(**fields)
