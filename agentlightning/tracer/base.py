"""What a tracer is: it opens trace contexts, records spans in them, and hands the spans over."""

import warnings
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from agentlightning.errors import TracerError
from agentlightning.tracer.active import (
    clear_active_tracer,
    get_active_tracer,
    set_active_tracer,
    with_active_tracer_context,
)
from agentlightning.types.hook import ParallelWorkerBase
from agentlightning.types.tracer import (
    Attributes,
    Span,
    SpanCoreFields,
    SpanRecordingContext,
    TraceStatus,
)

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = [
    "Tracer",
    "clear_active_tracer",
    "get_active_tracer",
    "set_active_tracer",
    "with_active_tracer_context",
]


class Tracer(ParallelWorkerBase):
    """Base of all tracers.

    A subclass overrides `trace_context`, `get_last_trace`, `create_span` and
    `operation_context`. One tracer object serves any number of contexts at the same time.
    """

    _store: "LightningStore | None" = None

    def init_worker(
        self, worker_id: int, store: "LightningStore | None" = None, *args: Any, **kwargs: Any
    ) -> None:
        """Prepare to trace in this process.

        Args:
            worker_id: Number of the worker.
            store: Where spans go when a trace context has ids; None keeps the one set before.
            *args: Ignored here.
            **kwargs: Ignored here.
        """
        super().init_worker(worker_id, *args, **kwargs)
        if store is not None:
            self._store = store

    def trace_context(
        self,
        name: str | None = None,
        *,
        store: "LightningStore | None" = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> AbstractAsyncContextManager[Any]:
        """Trace what runs inside the `async with`; the tracer is active there.

        Args:
            name: Label of the trace, for backends that show one.
            store: Deprecated; the store is given to `init_worker`.
            rollout_id: Rollout that the spans belong to; without, they are only kept locally.
            attempt_id: Attempt of that rollout; needed exactly when `rollout_id` is given.
        """
        raise NotImplementedError

    def _trace_context_sync(
        self,
        name: str | None = None,
        *,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> AbstractContextManager[Any]:
        """Do what `trace_context` does, for code that has no event loop."""
        raise NotImplementedError

    def get_last_trace(self) -> list[Span]:
        """Return the spans of the current trace context, or of the last one that ended here."""
        raise NotImplementedError

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """Record a span without duration and return it.

        Args:
            name: Name of the span.
            attributes: Its attributes.
            timestamp: Unix seconds; None takes the current time.
            status: Its status.
        """
        raise NotImplementedError

    def operation_context(
        self,
        name: str,
        attributes: Attributes | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> AbstractContextManager[SpanRecordingContext]:
        """Record what runs inside the `with` as one span; spans made there are its children.

        An exception is recorded and raised again. Times are unix seconds; None takes the clock.
        """
        raise NotImplementedError

    async def flush(
        self,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Wait until the spans recorded so far are stored, or given up.

        Args:
            rollout_id: Only the spans of this rollout's attempt; None means all spans.
            attempt_id: The attempt.
            timeout: Seconds to wait at most; None waits for the tracer's own limits.

        Returns:
            Whether nothing is pending any more. A tracer that keeps spans locally says True.
        """
        return True

    def export_counts(self, rollout_id: str, attempt_id: str) -> tuple[int, int]:
        """Return how many spans of an attempt were stored, and how many were not."""
        return 0, 0

    def get_langchain_handler(self, tags: list[str] | None = None) -> Any:
        """Return a LangChain callback handler, or None with a warning when there is none."""
        warnings.warn(
            f"{type(self).__name__} has no LangChain callback handler.", UserWarning, stacklevel=2
        )

    @contextmanager
    def lifespan(self, store: "LightningStore | None" = None) -> Generator[None]:
        """Run the whole life cycle of a tracer that is used on its own, as worker 0."""
        self.init()
        try:
            self.init_worker(0, store)
            try:
                yield
            finally:
                self.teardown_worker(0)
        finally:
            self.teardown()

    def trace_run(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function inside a trace context (deprecated)."""
        warnings.warn("Use Tracer.trace_context().", DeprecationWarning, stacklevel=2)
        with self._trace_context_sync(name=func.__name__):
            return func(*args, **kwargs)

    async def trace_run_async(
        self, func: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any
    ) -> Any:
        """Await a coroutine function inside a trace context (deprecated)."""
        warnings.warn("Use Tracer.trace_context().", DeprecationWarning, stacklevel=2)
        async with self.trace_context(name=func.__name__):
            return await func(*args, **kwargs)


def require_active_tracer() -> Tracer:
    """Return the active tracer.

    Raises:
        TracerError: There is none in this context.
    """
    tracer = get_active_tracer()
    if tracer is None:
        raise TracerError(
            "No active tracer in this context. Emit inside an agent or a trace_context(); in a "
            "thread of your own, run its target through contextvars.copy_context().run; or pass "
            "propagate=False to only build the span."
        )
    return tracer
