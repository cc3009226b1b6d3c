"""Spans as the store keeps them, and their translation from OpenTelemetry's objects."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Union, cast

from pydantic import BaseModel, ConfigDict, Field

from agentlightning._internal.clock import now
from agentlightning._internal.ids import new_span_id, new_trace_id
from agentlightning.semconv import AGL_VIRTUAL

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource as SdkResource
    from opentelemetry.sdk.trace import Event as SdkEvent
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Link as ApiLink
    from opentelemetry.trace import SpanContext as ApiSpanContext
    from opentelemetry.trace import Status as ApiStatus

# Perf: a `Sequence[...]` here would send every list of token ids through a Python validator.
AttributeValue = str | bool | int | float | list[str] | list[bool] | list[int] | list[float]
Attributes = dict[str, AttributeValue]
TraceState = dict[str, str]
StatusCode = Literal["UNSET", "OK", "ERROR"]

_NANOSECOND_THRESHOLD = 1e12
"""No unix time in seconds is that large, and none in nanoseconds that small."""

_KNOWN_OTEL_FIELDS = frozenset(
    {
        "name", "context", "parent", "resource", "attributes", "events", "links", "kind",
        "start_time", "end_time", "status", "instrumentation_scope", "instrumentation_info",
        "dropped_attributes", "dropped_events", "dropped_links", "is_recording",
    }
)  # fmt: skip


def convert_timestamp(timestamp: float | None) -> float | None:
    """Return seconds for a time given in nanoseconds or seconds; 0 and None give None."""
    if not timestamp:
        return None
    # An integer divided by an integer is rounded once; by 1e9 it would lose its last digits before.
    return timestamp / 10**9 if timestamp > _NANOSECOND_THRESHOLD else float(timestamp)


def _plain_attributes(attributes: Mapping[str, Any] | None) -> Attributes:
    if attributes is None:
        return {}
    # Perf: OpenTelemetry's mapping copies itself 6 times faster than it can be iterated.
    copy = getattr(attributes, "copy", None)
    plain = cast("Attributes", copy() if copy is not None else dict(attributes))
    for key, value in plain.items():
        if isinstance(value, tuple):
            plain[key] = list(cast("Sequence[str]", value))
    return plain


class SpanContext(BaseModel):
    """Identity of a span across processes."""

    model_config = ConfigDict(extra="allow")

    trace_id: str
    """32 hexadecimal characters."""
    span_id: str
    """16 hexadecimal characters."""
    is_remote: bool
    trace_state: TraceState

    @classmethod
    def from_opentelemetry(cls, src: "ApiSpanContext") -> "SpanContext":
        """Translate OpenTelemetry's context object."""
        return cls(
            trace_id=f"{src.trace_id:032x}",
            span_id=f"{src.span_id:016x}",
            is_remote=src.is_remote,
            trace_state=dict(src.trace_state or {}),
        )


class TraceStatus(BaseModel):
    """How the traced operation ended."""

    model_config = ConfigDict(extra="allow")

    status_code: StatusCode
    description: str | None = None

    @classmethod
    def from_opentelemetry(cls, src: "ApiStatus") -> "TraceStatus":
        """Translate OpenTelemetry's status object."""
        return cls(status_code=src.status_code.name, description=src.description)


class Event(BaseModel):
    """Something that happened at one moment within a span."""

    model_config = ConfigDict(extra="allow")

    name: str
    attributes: Attributes
    timestamp: float | None = None
    """Unix seconds."""

    @classmethod
    def from_opentelemetry(cls, src: "SdkEvent") -> "Event":
        """Translate OpenTelemetry's event object."""
        return cls(
            name=src.name,
            attributes=_plain_attributes(src.attributes),
            timestamp=convert_timestamp(src.timestamp),
        )


class Link(BaseModel):
    """A reference from one span to another."""

    model_config = ConfigDict(extra="allow")

    context: SpanContext
    attributes: Attributes | None = None

    @classmethod
    def from_opentelemetry(cls, src: "ApiLink") -> "Link":
        """Translate OpenTelemetry's link object."""
        attributes = _plain_attributes(src.attributes) if src.attributes else None
        return cls(context=SpanContext.from_opentelemetry(src.context), attributes=attributes)


class OtelResource(BaseModel):
    """Where a span came from."""

    attributes: Attributes
    schema_url: str

    @classmethod
    def from_opentelemetry(cls, src: "SdkResource") -> "OtelResource":
        """Translate OpenTelemetry's resource object."""
        return cls(attributes=_plain_attributes(src.attributes), schema_url=src.schema_url or "")


class SpanCoreFields(BaseModel):
    """A span before it belongs to any rollout; times are unix seconds."""

    name: str
    status: TraceStatus
    attributes: Attributes
    start_time: float | None
    end_time: float | None


class Span(BaseModel):
    """One recorded operation of one attempt. Identity: rollout, attempt and span id."""

    model_config = ConfigDict(extra="allow")

    rollout_id: str
    attempt_id: str
    sequence_id: int
    """Order within the rollout, given by the store at ingestion when the writer has none (0)."""
    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    status: TraceStatus
    attributes: Attributes
    events: list[Event] = Field(default_factory=list[Event])
    links: list[Link] = Field(default_factory=list[Link])
    start_time: float | None
    """Unix seconds."""
    end_time: float | None
    """Unix seconds."""
    context: SpanContext | None
    parent: SpanContext | None
    resource: OtelResource

    @classmethod
    def from_opentelemetry(
        cls,
        src: "ReadableSpan",
        rollout_id: str,
        attempt_id: str,
        sequence_id: int,
        *,
        resource: OtelResource | None = None,
    ) -> "Span":
        """Translate a finished OpenTelemetry span; public attributes unknown to us are kept.

        Args:
            src: The span.
            rollout_id: Rollout it belongs to.
            attempt_id: Attempt it belongs to.
            sequence_id: Order within the rollout; 0 lets the store choose.
            resource: Takes the place of the span's own resource.
        """
        context = src.get_span_context()
        own = SpanContext.from_opentelemetry(context) if context is not None else None
        parent = SpanContext.from_opentelemetry(src.parent) if src.parent is not None else None
        return cls(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=sequence_id,
            trace_id=own.trace_id if own else new_trace_id(),
            span_id=own.span_id if own else new_span_id(),
            parent_id=parent.span_id if parent else None,
            name=src.name,
            status=TraceStatus.from_opentelemetry(src.status),
            attributes=_plain_attributes(src.attributes),
            events=[Event.from_opentelemetry(event) for event in src.events],
            links=[Link.from_opentelemetry(link) for link in src.links],
            start_time=convert_timestamp(src.start_time),
            end_time=convert_timestamp(src.end_time),
            context=own,
            parent=parent,
            resource=resource or OtelResource.from_opentelemetry(src.resource),
            **_unknown_fields(src),
        )

    @classmethod
    def from_attributes(  # noqa: PLR0913 - Compat 0.3.0: the signature is theirs.
        cls,
        *,
        attributes: Attributes,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        sequence_id: int | None = None,
        name: str | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
        parent_id: str | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
        resource: OtelResource | None = None,
        status: TraceStatus | None = None,
    ) -> "Span":
        """Build a span from its attributes, inventing whatever is not given."""
        trace_id = trace_id or new_trace_id()
        span_id = span_id or new_span_id()
        parent = (
            SpanContext(trace_id=trace_id, span_id=parent_id, is_remote=False, trace_state={})
            if parent_id
            else None
        )
        return cls(
            rollout_id=rollout_id or "",
            attempt_id=attempt_id or "",
            sequence_id=sequence_id or 0,
            trace_id=trace_id,
            span_id=span_id,
            parent_id=parent_id,
            name=name or AGL_VIRTUAL,
            status=status or TraceStatus(status_code="OK"),
            attributes=attributes,
            start_time=start_time,
            end_time=end_time,
            context=SpanContext(
                trace_id=trace_id, span_id=span_id, is_remote=False, trace_state={}
            ),
            parent=parent,
            resource=resource or OtelResource(attributes={}, schema_url=""),
        )

    @classmethod
    def from_core_fields(
        cls,
        core: SpanCoreFields,
        *,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        sequence_id: int | None = None,
    ) -> "Span":
        """Give a core span an identity; a missing start time becomes now."""
        return cls.from_attributes(
            attributes=core.attributes,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=sequence_id,
            name=core.name,
            start_time=core.start_time if core.start_time is not None else now(),
            end_time=core.end_time,
            status=core.status,
        )


def _unknown_fields(src: "ReadableSpan") -> dict[str, Any]:
    """Return public instance attributes that OpenTelemetry's own class does not have, as JSON."""
    extras = {
        name: value
        for name, value in vars(src).items()
        if not name.startswith("_") and name not in _KNOWN_OTEL_FIELDS and not callable(value)
    }
    return json.loads(json.dumps(extras, default=str)) if extras else {}


SpanLike = Union["ReadableSpan", Span]
"""A span of either make: OpenTelemetry's finished span, or ours."""

RolloutRawResult = Union[None, float, list["ReadableSpan"], list[Span], list[SpanCoreFields]]
"""What an agent may return: nothing, its reward, or spans."""


class SpanRecordingContext(Protocol):
    """A span that is being recorded."""

    def record_exception(self, exception: BaseException) -> None:
        """Attach an exception and set the status to ERROR."""
        ...

    def record_attributes(self, attributes: Attributes) -> None:
        """Merge attributes into the span."""
        ...

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        """Set the status."""
        ...

    def get_recorded_span(self) -> SpanCoreFields:
        """Return the span as recorded; only valid after it ended."""
        ...
