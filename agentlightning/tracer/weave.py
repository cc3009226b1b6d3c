"""The tracer that takes Weave's calls: each finished call becomes a span of the attempt."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import TracerProvider

from agentlightning._internal.extra import require_extra
from agentlightning.instrumentation.weave import (
    InMemoryWeaveTraceServer,
    instrument_weave,
    uninstrument_weave,
    weave_settings,
)
from agentlightning.semconv import LightningResourceAttributes, LightningSpanAttributes
from agentlightning.tracer.exporter import ExportOptions
from agentlightning.tracer.otel import OtelTracer
from agentlightning.tracer.scope import TraceScope, current_scope
from agentlightning.types.tracer import Attributes, OtelResource, Span, TraceStatus
from agentlightning.utils.attributes import flatten_attributes, sanitize_attributes

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["WeaveTracer"]

_INPUT = LightningSpanAttributes.OPERATION_INPUT.value
_OUTPUT = LightningSpanAttributes.OPERATION_OUTPUT.value


class WeaveTracer(OtelTracer):
    """Records Weave's calls (`weave.op`, and the libraries that Weave instruments) as spans.

    It is an `OtelTracer` besides: what is emitted is recorded as ever. Weave is used without its
    service: no account, no network. Any number of trace contexts may run at once.

    Args:
        project_name: `project` or `entity/project`, as it appears in the names of operations.
        weave_user_settings: Weave's `UserSettings`, or a dict of its fields, for trace contexts.
        instrument_managed: Whether Weave is set up by this tracer, and instruments OpenAI's and
            other client libraries. If not, `instrumentation.weave.instrument_weave` is yours.
        store: See `OtelTracer`, like the next two.
        flush_timeout: See there.
        export: See there.

    Raises:
        MissingExtraError: Weave is not installed; the extra is `weave`.
    """

    def __init__(
        self,
        *,
        project_name: str | None = None,
        weave_user_settings: Any = None,
        instrument_managed: bool = True,
        store: "LightningStore | None" = None,
        flush_timeout: float = 30.0,
        export: ExportOptions | None = None,
    ) -> None:
        require_extra("weave", "weave")
        super().__init__(store=store, flush_timeout=flush_timeout, export=export)
        self.project_name = project_name or "agentlightning"
        self.weave_user_settings = weave_user_settings
        self.instrument_managed = instrument_managed

    def __getstate__(self) -> dict[str, Any]:
        kept = ("project_name", "weave_user_settings", "instrument_managed")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in kept}}

    def _switch_on(self, provider: TracerProvider) -> None:
        if self.instrument_managed:
            server = InMemoryWeaveTraceServer(_scope_of_start, _record)
            instrument_weave(server, project=self.project_name)
        super()._switch_on(provider)

    def _switch_off(self) -> None:
        super()._switch_off()
        if self.instrument_managed:
            uninstrument_weave()

    def _root_span(self, name: str | None) -> AbstractContextManager[Any]:
        return weave_settings(_fields(self.weave_user_settings))


def _fields(settings: Any) -> dict[str, Any]:
    """Return Weave's settings as a dict, from its own class or from a dict."""
    given = settings or {}
    return dict(given) if isinstance(given, Mapping) else dict(vars(given))


def _scope_of_start(_: dict[str, Any]) -> tuple[TraceScope | None, str | None]:
    """Return where a call that starts here belongs to, and the OpenTelemetry span around it."""
    around = otel_trace.get_current_span().get_span_context()
    return current_scope(), f"{around.span_id:016x}" if around.is_valid else None


def _record(
    start: dict[str, Any], end: dict[str, Any], kept: tuple[TraceScope | None, str | None]
) -> None:
    scope, around = kept
    if scope is not None:
        scope.record(_to_span(start, end, scope, around))


def _to_span(
    start: dict[str, Any], end: dict[str, Any], scope: TraceScope, around: str | None
) -> Span:
    parent = start.get("parent_id")
    error = end.get("exception")
    trace_id = f"{scope.trace_id:032x}" if scope.trace_id is not None else None
    return Span.from_attributes(
        attributes=_attributes(start, end),
        rollout_id=scope.rollout_id,
        attempt_id=scope.attempt_id,
        name=_operation_name(start["op_name"]),
        trace_id=trace_id or _hex(start["trace_id"]),
        span_id=_hex(start["id"])[-16:],
        parent_id=_hex(parent)[-16:] if parent else around,
        start_time=_seconds(start["started_at"]),
        end_time=_seconds(end["ended_at"]),
        resource=_resource(scope),
        status=TraceStatus(status_code="ERROR", description=error) if error else None,
    )


def _attributes(start: dict[str, Any], end: dict[str, Any]) -> Attributes:
    told: dict[str, Any] = {
        **(start.get("attributes") or {}),
        _INPUT: start.get("inputs") or {},
        _OUTPUT: end.get("output"),
        "summary": end.get("summary") or {},
    }
    if end.get("exception"):
        told["exception.message"] = end["exception"]
    flat = {key: value for key, value in flatten_attributes(told).items() if value is not None}
    flat[LightningSpanAttributes.OPERATION_NAME.value] = start["op_name"]
    return sanitize_attributes(flat)


def _operation_name(reference: str) -> str:
    """Return the function in a reference: `weave:///e/p/op/openai.chat:v0` is `openai.chat`."""
    return reference.rsplit("/", 1)[-1].split(":", 1)[0]


def _hex(identifier: str) -> str:
    return identifier.replace("-", "")


def _seconds(moment: Any) -> float:
    return (moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)).timestamp()


def _resource(scope: TraceScope) -> OtelResource:
    names = LightningResourceAttributes
    attributes: Attributes = {
        names.ROLLOUT_ID.value: scope.rollout_id,
        names.ATTEMPT_ID.value: scope.attempt_id,
        names.TRACER_NAME.value: "weave",
    }
    return OtelResource(attributes=attributes, schema_url="")
