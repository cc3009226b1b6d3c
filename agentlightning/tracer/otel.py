"""The tracer on OpenTelemetry: everything that speaks its API inside a rollout is recorded."""

import asyncio
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import TracerProvider

from agentlightning._internal.clock import now
from agentlightning._internal.ids import attempt_trace_id
from agentlightning.errors import ConfigurationError, TracerError
from agentlightning.instrumentation.clients import (
    instrument_clients,
    require_instrumentation,
    uninstrument_clients,
)
from agentlightning.instrumentation.threads import instrument_threads, uninstrument_threads
from agentlightning.tracer.active import swap_active_tracer, with_active_tracer_context
from agentlightning.tracer.base import Tracer
from agentlightning.tracer.delivery import Delivery
from agentlightning.tracer.exporter import ExportOptions, StoreExporter
from agentlightning.tracer.processor import LightningSpanProcessor, scoped_context
from agentlightning.tracer.provider import shared_provider
from agentlightning.tracer.recording import OtelSpanRecordingContext, nanoseconds, otel_status
from agentlightning.tracer.scope import TraceScope, current_scope, enter_scope, last_scope
from agentlightning.types.tracer import Attributes, Span, SpanCoreFields, TraceStatus

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["LightningSpanProcessor", "OtelTracer"]

_LOCAL_IDS = ("rollout-dummy", "attempt-dummy")
_REMEMBERED_ATTEMPTS = 1024


class OtelTracer(Tracer):
    """Records OpenTelemetry spans per trace context and exports them in the background.

    One object serves any number of trace contexts at once, over tasks, threads and event loops;
    which one a span belongs to travels in context. It pickles as its settings only. Leaving a
    trace context waits until its spans are stored, at most `flush_timeout` seconds.

    Args:
        store: Where spans go; usually given to `init_worker` by who runs the tracer.
        flush_timeout: See above.
        export: Limits of the background export.
        instrument: Whether the calls of OpenAI's, Anthropic's and LangChain's client libraries
            are recorded while a worker is set up. Needs the extra `instrumentation`.

    Raises:
        MissingExtraError: `instrument` is set and no instrumentation of a library is installed.
    """

    def __init__(
        self,
        *,
        store: "LightningStore | None" = None,
        flush_timeout: float = 30.0,
        export: ExportOptions | None = None,
        instrument: bool = False,
    ) -> None:
        if instrument:
            require_instrumentation()
        self._store = store
        self.flush_timeout = flush_timeout
        self.export = export or ExportOptions()
        self.instrument = instrument
        self._start_empty()

    def _start_empty(self) -> None:
        self._otel_tracer: otel_trace.Tracer | None = None
        self._workers: set[int] = set()
        self._exporter = StoreExporter(self.export)
        self._last_scope: TraceScope | None = None
        self._deliveries: OrderedDict[tuple[str, str], Delivery] = OrderedDict()
        self._lock = threading.Lock()
        weakref.finalize(self, self._exporter.shutdown)

    def __getstate__(self) -> dict[str, Any]:
        store = self._store
        if store is not None and not store.capabilities.get("zero_copy", False):
            # A store of this process; the other one gives its own to init_worker.
            store = None
        kept = ("flush_timeout", "export", "instrument", "worker_id")
        return {"_store": store, **{name: getattr(self, name) for name in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_empty()

    def init_worker(
        self, worker_id: int, store: "LightningStore | None" = None, *args: Any, **kwargs: Any
    ) -> None:
        """Take part in the process's tracer provider; it also becomes OpenTelemetry's global one
        if there is none, so that instrumented libraries reach us. While any worker is set up,
        thread pools carry context, and libraries are instrumented if that is asked for.
        """
        super().init_worker(worker_id, store, *args, **kwargs)
        provider = shared_provider()
        with self._lock:
            if worker_id not in self._workers:
                self._switch_on(provider)
                self._workers.add(worker_id)
            if self._otel_tracer is None:
                self._otel_tracer = provider.get_tracer("agentlightning")

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Undo `init_worker`; the last one sends what is left and stops the export thread.

        The provider stays.
        """
        with self._lock:
            if worker_id in self._workers:
                self._workers.remove(worker_id)
                self._switch_off()
            last = not self._workers
        if last:
            self._exporter.shutdown()
        super().teardown_worker(worker_id, *args, **kwargs)

    def _switch_on(self, provider: TracerProvider) -> None:
        """Instrument for one worker."""
        if self.instrument:
            instrument_clients(provider)
        instrument_threads()

    def _switch_off(self) -> None:
        """Undo one `_switch_on`."""
        uninstrument_threads()
        if self.instrument:
            uninstrument_clients()

    def _started(self) -> otel_trace.Tracer:
        if self._otel_tracer is None:
            raise TracerError("The tracer is not started: call init_worker() or use lifespan().")
        return self._otel_tracer

    @with_active_tracer_context
    @asynccontextmanager
    async def trace_context(
        self,
        name: str | None = None,
        *,
        store: "LightningStore | None" = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> AsyncGenerator[otel_trace.Tracer]:
        """Trace what runs inside; yields an OpenTelemetry tracer.

        Raises:
            TracerError: `init_worker` was not called.
            ConfigurationError: One id without the other, or ids without a store.
        """
        tracer = self._started()
        scope = self._open_scope(store, rollout_id, attempt_id, asyncio.get_running_loop())
        try:
            with self._entered(scope), self._root_span(name or rollout_id):
                yield tracer
        finally:
            if scope.delivery is not None:
                await self._await_delivery([scope.delivery], self.flush_timeout)

    @contextmanager
    def _trace_context_sync(
        self,
        name: str | None = None,
        *,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> Generator[otel_trace.Tracer]:
        tracer = self._started()
        scope = self._open_scope(None, rollout_id, attempt_id, None)
        active_before = swap_active_tracer(self)
        try:
            with self._entered(scope), self._root_span(name or rollout_id):
                yield tracer
        finally:
            swap_active_tracer(active_before)
            if scope.delivery is not None:
                self._exporter.flush([scope.delivery], self.flush_timeout)

    def _open_scope(
        self,
        store: "LightningStore | None",
        rollout_id: str | None,
        attempt_id: str | None,
        home: asyncio.AbstractEventLoop | None,
    ) -> TraceScope:
        if rollout_id is None and attempt_id is None:
            outer = current_scope()
            ids = (outer.rollout_id, outer.attempt_id) if outer else _LOCAL_IDS
            trace_id = outer.trace_id if outer else None
            return TraceScope(self, *ids, trace_id, outer=outer)
        if rollout_id is None or attempt_id is None:
            raise ConfigurationError("Give both rollout_id and attempt_id, or neither.")
        if store is not None:
            warnings.warn(
                "Pass the store to init_worker() or lifespan().", DeprecationWarning, stacklevel=5
            )
        target = store if store is not None else self._store
        if target is None:
            raise ConfigurationError(
                "Spans of an attempt need a store: pass it to init_worker() or lifespan()."
            )
        return TraceScope(
            self,
            rollout_id,
            attempt_id,
            int(attempt_trace_id(rollout_id, attempt_id), 16),
            delivery=self._delivery(rollout_id, attempt_id),
            lane=self._exporter.lane(target, home),
        )

    @contextmanager
    def _entered(self, scope: TraceScope) -> Generator[None]:
        """Make a scope current, for us and for OpenTelemetry."""
        outer = enter_scope(scope)
        otel_before = otel_context.get_current()
        otel_context.attach(scoped_context(scope, keep_parent=scope.outer is not None))
        try:
            yield
        finally:
            # Why not detach: a generator may be closed in another context than it began in, and
            # a token is only good in its own.
            otel_context.attach(otel_before)
            enter_scope(outer)
            self._last_scope = scope

    def _root_span(self, name: str | None) -> AbstractContextManager[Any]:
        """Return what goes around everything in a trace context; a subclass may open a span."""
        return nullcontext()

    def _delivery(self, rollout_id: str, attempt_id: str) -> Delivery:
        with self._lock:
            key = (rollout_id, attempt_id)
            delivery = self._deliveries.setdefault(key, Delivery(rollout_id, attempt_id))
            self._deliveries.move_to_end(key)
            while len(self._deliveries) > _REMEMBERED_ATTEMPTS:
                self._deliveries.popitem(last=False)
            return delivery

    def get_last_trace(self) -> list[Span]:
        """Return the spans of the current trace context, or of the last one that ended here.

        Where this context has seen neither, those of the context that any task or thread of
        this tracer left last.
        """
        for scope in (current_scope(), last_scope(), self._last_scope):
            if scope is not None and scope.owner is self:
                return scope.spans()
        return []

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        tracer = self._started()
        moment = timestamp if timestamp is not None else now()
        span = tracer.start_span(name, attributes=attributes, start_time=nanoseconds(moment))
        if status is not None:
            span.set_status(otel_status(status.status_code, status.description))
        span.end(nanoseconds(moment))
        return SpanCoreFields(
            name=name,
            status=status or TraceStatus(status_code="UNSET"),
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
    ) -> Generator[OtelSpanRecordingContext]:
        tracer = self._started()
        span = tracer.start_span(
            name,
            attributes=attributes,
            start_time=nanoseconds(start_time) if start_time is not None else None,
        )
        recording = OtelSpanRecordingContext(span)
        before = otel_context.get_current()
        otel_context.attach(otel_trace.set_span_in_context(span))
        try:
            yield recording
        except BaseException as error:
            recording.record_exception(error)
            raise
        finally:
            otel_context.attach(before)
            recording.finalize(end_time)

    async def flush(
        self,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        timeout: float | None = None,
    ) -> bool:
        with self._lock:
            if rollout_id is None or attempt_id is None:
                chosen = list(self._deliveries.values())
            else:
                known = self._deliveries.get((rollout_id, attempt_id))
                chosen = [known] if known else []
        return await self._await_delivery(chosen, timeout)

    async def _await_delivery(self, deliveries: list[Delivery], timeout: float | None) -> bool:
        waiting = [asyncio.wrap_future(d.drained()) for d in deliveries if d.pending]
        if not waiting:
            return True
        self._exporter.hurry()
        _, late = await asyncio.wait(waiting, timeout=timeout)
        for future in late:
            future.cancel()
        return not late

    def export_counts(self, rollout_id: str, attempt_id: str) -> tuple[int, int]:
        """Return how many spans of an attempt were stored, and how many were not (yet).

        Ask after the trace context was left: what is pending counts as not stored. The last
        1,024 attempts are remembered; older ones give zeros.
        """
        with self._lock:
            delivery = self._deliveries.get((rollout_id, attempt_id))
        if delivery is None:
            return 0, 0
        return delivery.sent, delivery.dropped + delivery.pending
