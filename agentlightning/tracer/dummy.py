"""The tracer that stores nothing: it builds spans, for tests and for `propagate=False`."""

from collections.abc import Generator
from contextlib import contextmanager

from agentlightning._internal.clock import now
from agentlightning._internal.ids import new_span_id
from agentlightning.errors import TracerError
from agentlightning.tracer.base import Tracer
from agentlightning.types.tracer import (
    Attributes,
    Span,
    SpanCoreFields,
    SpanRecordingContext,
    StatusCode,
    TraceStatus,
)
from agentlightning.utils.attributes import format_exception_attributes

__all__ = ["DummySpanRecordingContext", "DummyTracer"]


class DummySpanRecordingContext(SpanRecordingContext):
    """A span in the making that lives in memory only."""

    def __init__(
        self, name: str, attributes: Attributes | None = None, start_time: float | None = None
    ) -> None:
        self.span_id = new_span_id()
        """Random, 16 hexadecimal characters."""
        self._name = name
        self._attributes: Attributes = dict(attributes or {})
        self._start_time = start_time if start_time is not None else now()
        self._end_time: float | None = None
        self._status = TraceStatus(status_code="UNSET")

    def record_exception(self, exception: BaseException) -> None:
        self._attributes.update(format_exception_attributes(exception))
        self.record_status("ERROR", str(exception))

    def record_attributes(self, attributes: Attributes) -> None:
        self._attributes.update(attributes)

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        self._status = TraceStatus(status_code=status_code, description=description)

    def finalize(self, end_time: float | None = None) -> None:
        """End the span now, or at `end_time` (unix seconds); only the first call counts."""
        if self._end_time is not None:
            return
        self._end_time = end_time if end_time is not None else now()
        if self._status.status_code == "UNSET":
            self.record_status("OK")

    def get_recorded_span(self) -> SpanCoreFields:
        """Return the ended span.

        Raises:
            NotEndedError: It has not ended.
        """
        if self._end_time is None:
            raise NotEndedError("The span has not ended: read it after its context is left.")
        return SpanCoreFields(
            name=self._name,
            status=self._status,
            attributes=self._attributes,
            start_time=self._start_time,
            end_time=self._end_time,
        )


class NotEndedError(TracerError, ValueError):
    """A span is read before it ended."""


class DummyTracer(Tracer):
    """Builds spans and keeps none of them; it has no trace context."""

    def get_last_trace(self) -> list[Span]:
        """Return nothing, for nothing is kept."""
        return []

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        moment = timestamp if timestamp is not None else now()
        return SpanCoreFields(
            name=name,
            status=status or TraceStatus(status_code="OK"),
            attributes=dict(attributes or {}),
            start_time=moment,
            end_time=moment,
        )

    @contextmanager
    def operation_context(
        self,
        name: str,
        attributes: Attributes | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> Generator[DummySpanRecordingContext]:
        recording = DummySpanRecordingContext(name, attributes, start_time)
        try:
            yield recording
        except BaseException as error:
            recording.record_exception(error)
            raise
        finally:
            recording.finalize(end_time)
