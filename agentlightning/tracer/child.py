"""Carrying an attempt into child processes: by environment variables, there and back.

A program of another make takes the same variables: OpenTelemetry's SDKs read where spans go and
what they belong to.
"""

import asyncio
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentlightning.errors import ConfigurationError, TracerError
from agentlightning.semconv import LightningResourceAttributes
from agentlightning.settings import agent_environment
from agentlightning.tracer.base import Tracer
from agentlightning.tracer.otel import OtelTracer
from agentlightning.tracer.scope import current_scope

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["attempt_environment", "continue_trace", "trace_environment"]

_TRACES_PATH = "/v1/traces"
_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


def trace_environment() -> dict[str, str]:
    """Return the variables with which a child process's spans belong to the current attempt.

    They are `AGL_ROLLOUT_ID`, `AGL_ATTEMPT_ID`, `TRACEPARENT`, `OTEL_RESOURCE_ATTRIBUTES` and,
    where the store takes spans over HTTP, OpenTelemetry's endpoint and protocol. Add them to the
    child's environment; a Python child that uses this package enters `continue_trace`.

    Raises:
        TracerError: There is no attempt in this context.
    """
    scope = current_scope()
    while scope is not None and scope.outer is not None:
        scope = scope.outer
    if scope is None or scope.lane is None:
        raise TracerError("No attempt is traced in this context: call this inside an agent.")
    return attempt_environment(scope.rollout_id, scope.attempt_id, scope.lane.store)


def attempt_environment(
    rollout_id: str, attempt_id: str, store: "LightningStore | None"
) -> dict[str, str]:
    """Return what `trace_environment` does, for an attempt that is given.

    The child gets no token of the store, for that opens all of it; a store that wants one refuses
    the child's spans.

    Args:
        rollout_id: The attempt's rollout.
        attempt_id: The attempt.
        store: Where spans go; None, or one that takes none over HTTP, is not named.
    """
    found = {"AGL_ROLLOUT_ID": rollout_id, "AGL_ATTEMPT_ID": attempt_id}
    keys = LightningResourceAttributes
    named = {keys.ROLLOUT_ID.value: rollout_id, keys.ATTEMPT_ID.value: attempt_id}
    found["OTEL_RESOURCE_ATTRIBUTES"] = ",".join(f"{key}={named[key]}" for key in named)
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    found.update({name.upper(): value for name, value in carrier.items()})
    if store is not None and store.capabilities.get("otlp_traces", False):
        found[_ENDPOINT] = store.otlp_traces_endpoint()
        found["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"
    return found


@contextmanager
def continue_trace(
    environment: Mapping[str, str] | None = None, *, store: "LightningStore | None" = None
) -> Generator[Tracer]:
    """Trace into the attempt of the process that started this one; for the child's main thread.

    Emitters and instrumented libraries work inside as they do in the agent. Spans are below the
    one that was current where `trace_environment` was called. Leaving waits until they are stored.

    Args:
        environment: What `trace_environment` returned; None reads the process's environment.
        store: Where spans go; None connects to the store that the environment names.

    Raises:
        ConfigurationError: The environment names no attempt, or no store.
    """
    given = agent_environment() if environment is None else environment
    rollout_id, attempt_id = given.get("AGL_ROLLOUT_ID"), given.get("AGL_ATTEMPT_ID")
    if not rollout_id or not attempt_id:
        raise ConfigurationError(
            "No attempt to continue: start this process with what trace_environment() returns."
        )
    target = store if store is not None else _connect(given.get(_ENDPOINT, ""))
    tracer = OtelTracer()
    parent = TraceContextTextMapPropagator().extract({"traceparent": given.get("TRACEPARENT", "")})
    try:
        with (
            tracer.lifespan(target),
            tracer._trace_context_sync(  # noqa: SLF001 - its own package's, for code without a loop.
                rollout_id=rollout_id, attempt_id=attempt_id
            ),
            _below(parent),
        ):
            yield tracer
    finally:
        if store is None:
            # In a thread, since the child may be inside an event loop here.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, target.close()).result()


def _connect(endpoint: str) -> "LightningStore":
    from agentlightning.store.http.client import LightningStoreClient

    if not endpoint.endswith(_TRACES_PATH):
        raise ConfigurationError(
            f"No store to reach: {_ENDPOINT} is not set. Child processes need a store behind a "
            "server; or pass `store`."
        )
    return LightningStoreClient(endpoint.removesuffix(_TRACES_PATH))


@contextmanager
def _below(parent: otel_context.Context) -> Generator[None]:
    """Make the spans of this context children of a span of another process."""
    from opentelemetry import trace

    before = otel_context.get_current()
    otel_context.attach(trace.set_span_in_context(trace.get_current_span(parent), before))
    try:
        yield
    finally:
        otel_context.attach(before)
