"""A span being recorded through OpenTelemetry, in the shape that emitters know."""

import threading
from typing import cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span as ApiSpan
from opentelemetry.trace import Status
from opentelemetry.trace import StatusCode as ApiStatusCode

from agentlightning.tracer.dummy import NotEndedError
from agentlightning.types.tracer import (
    Attributes,
    SpanCoreFields,
    SpanRecordingContext,
    StatusCode,
    TraceStatus,
    convert_timestamp,
)

__all__ = ["OtelSpanRecordingContext", "nanoseconds", "otel_status"]


def nanoseconds(seconds: float) -> int:
    """Return unix nanoseconds, which OpenTelemetry counts in, for unix seconds."""
    return int(seconds * 1e9)


def otel_status(status_code: StatusCode, description: str | None = None) -> Status:
    """Return OpenTelemetry's status object; it takes a description with errors only."""
    return Status(ApiStatusCode[status_code], description if status_code == "ERROR" else None)


class OtelSpanRecordingContext(SpanRecordingContext):
    """An OpenTelemetry span in the making."""

    def __init__(self, span: ApiSpan) -> None:
        self._span = span
        self._status_given = False
        self._end_lock = threading.Lock()

    @property
    def span_id(self) -> str:
        """The span's id, 16 hexadecimal characters."""
        return f"{self._span.get_span_context().span_id:016x}"

    def record_exception(self, exception: BaseException) -> None:
        self._span.record_exception(exception)
        self.record_status("ERROR", f"{type(exception).__name__}: {exception}")

    def record_attributes(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        self._status_given = True
        self._span.set_status(otel_status(status_code, description))

    def finalize(self, end_time: float | None = None) -> None:
        """End the span now, or at `end_time` (unix seconds), as OK unless said otherwise."""
        with self._end_lock:
            if not self._span.is_recording():
                return
            if not self._status_given:
                self.record_status("OK")
            self._span.end(nanoseconds(end_time) if end_time is not None else None)

    def get_recorded_span(self) -> SpanCoreFields:
        """Return the ended span.

        Raises:
            NotEndedError: It has not ended.
        """
        if self._span.is_recording():
            raise NotEndedError("The span has not ended: read it after its context is left.")
        ended = cast("ReadableSpan", self._span)
        return SpanCoreFields(
            name=ended.name,
            status=TraceStatus.from_opentelemetry(ended.status),
            attributes=cast("Attributes", dict(ended.attributes or {})),
            start_time=convert_timestamp(ended.start_time),
            end_time=convert_timestamp(ended.end_time),
        )
