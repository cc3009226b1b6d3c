"""An OTLP span exporter that can be pointed at a store, or told to export nothing.

It uses the exporter of `opentelemetry-exporter-otlp-proto-http` where that is installed; nothing
else in this package needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from agentlightning.errors import MissingExtraError
from agentlightning.semconv import LightningResourceAttributes

__all__ = ["LightningStoreOTLPExporter"]


class LightningStoreOTLPExporter(SpanExporter):
    """Exports spans to the store's `/v1/traces` while that is enabled.

    While it is not, spans go where the constructor's arguments say, unless `should_bypass`.
    Thread-safe. Arguments are those of the OTLP/HTTP span exporter.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args = args
        self._kwargs = kwargs
        self._lock = threading.Lock()
        self._default: SpanExporter | None = None
        self._to_store: SpanExporter | None = None
        self._ids: dict[str, str] = {}

    @property
    def endpoint(self) -> str | None:
        """The store's endpoint while exporting to it."""
        return self._ids.get("endpoint")

    @property
    def rollout_id(self) -> str | None:
        """The rollout that exported spans are attributed to."""
        return self._ids.get(LightningResourceAttributes.ROLLOUT_ID.value)

    @property
    def attempt_id(self) -> str | None:
        """The attempt that exported spans are attributed to."""
        return self._ids.get(LightningResourceAttributes.ATTEMPT_ID.value)

    def enable_store_otlp(self, endpoint: str, rollout_id: str, attempt_id: str) -> None:
        """Send spans to a store from now on, attributed to one attempt.

        Args:
            endpoint: The store's `otlp_traces_endpoint()`.
            rollout_id: Set on the resource of every span.
            attempt_id: Set on the resource of every span.

        Raises:
            MissingExtraError: The OTLP/HTTP exporter is not installed.
        """
        kwargs = {key: value for key, value in self._kwargs.items() if key != "endpoint"}
        fresh = _http_exporter(endpoint=endpoint, **kwargs)
        with self._lock:
            previous, self._to_store = self._to_store, fresh
            self._ids = {
                "endpoint": endpoint,
                LightningResourceAttributes.ROLLOUT_ID.value: rollout_id,
                LightningResourceAttributes.ATTEMPT_ID.value: attempt_id,
            }
        if previous is not None:
            previous.shutdown()

    def disable_store_otlp(self) -> None:
        """Stop sending spans to a store; idempotent."""
        with self._lock:
            previous, self._to_store = self._to_store, None
            self._ids = {}
        if previous is not None:
            previous.shutdown()

    def should_bypass(self) -> bool:
        """Return whether spans are dropped while no store is enabled; override to export them."""
        return True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            exporter, ids = self._to_store, dict(self._ids)
        if exporter is not None:
            ids.pop("endpoint")
            resource = Resource(dict(ids))
            return exporter.export([_with_resource(span, resource) for span in spans])
        if self.should_bypass():
            return SpanExportResult.SUCCESS
        with self._lock:
            self._default = self._default or _http_exporter(*self._args, **self._kwargs)
        return self._default.export(spans)

    def shutdown(self) -> None:
        self.disable_store_otlp()
        if self._default is not None:
            self._default.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: every export has ended when it returns."""
        return True


def _http_exporter(*args: Any, **kwargs: Any) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise MissingExtraError("opentelemetry-exporter-otlp-proto-http", "otlp") from error
    return OTLPSpanExporter(*args, **kwargs)


def _with_resource(span: ReadableSpan, resource: Resource) -> ReadableSpan:
    """Return a copy of a finished span whose resource also holds `resource`."""
    return ReadableSpan(
        name=span.name,
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource.merge(resource),
        attributes=span.attributes,
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
