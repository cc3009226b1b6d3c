"""Tests of our exporter without a store; with one it is tested in the store's routes."""

from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from agentlightning.utils import otlp_exporter
from agentlightning.utils.otlp import LightningStoreOTLPExporter


def test_our_exporter_drops_spans_until_enabled():
    """An exporter that was never pointed at a store swallows spans and needs no network."""
    exporter = LightningStoreOTLPExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("t").start_span("s").end()
    assert exporter.should_bypass()
    assert exporter.export([]) is SpanExportResult.SUCCESS
    assert exporter.force_flush()
    exporter.disable_store_otlp()
    provider.shutdown()


def test_an_exporter_that_does_not_bypass_exports(monkeypatch: pytest.MonkeyPatch):
    """Without bypassing, spans go to the exporter that the arguments describe."""
    seen: list[str] = []

    class Recorder(SpanExporter):
        def __init__(self, endpoint: str) -> None:
            self.endpoint = endpoint

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            seen.extend(f"{self.endpoint} {span.name}" for span in spans)
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            seen.append(f"{self.endpoint} closed")

    class Through(LightningStoreOTLPExporter):
        def should_bypass(self) -> bool:
            return False

    monkeypatch.setattr(otlp_exporter, "_http_exporter", Recorder)
    exporter = Through(endpoint="http://collector")
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("t")
    tracer.start_span("one").end()
    exporter.enable_store_otlp("http://store", "ro-1", "at-1")
    tracer.start_span("two").end()
    exporter.disable_store_otlp()
    tracer.start_span("three").end()
    provider.shutdown()
    assert seen == [
        "http://collector one",
        "http://store two",
        "http://store closed",
        "http://collector three",
        "http://collector closed",
    ]
