"""AgentOps: its spans go to our tracer provider, say token ids, and stay on this machine.

AgentOps sets up a tracer provider, exporters and a login of its own. While it is instrumented,
setting up gives it ours instead, and everything that would reach its service is held back unless
`enable_agentops_service` allows it.
"""

import functools
import importlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from agentlightning._internal.extra import require_extra
from agentlightning.instrumentation import agentops_openai
from agentlightning.instrumentation.patches import Patch, Patches
from agentlightning.utils.providers import get_span_processors

__all__ = [
    "enable_agentops_service",
    "instrument_agentops",
    "is_agentops_service_enabled",
    "uninstrument_agentops",
]

logger = logging.getLogger(__name__)


@dataclass
class _Settings:
    enabled: bool = False
    provider: TracerProvider | None = None
    """The provider that AgentOps is given; None for OpenTelemetry's global one."""
    log_in: Callable[[], None] | None = None
    """Makes the login that was held back."""


_service = _Settings()


def enable_agentops_service(enabled: bool = True) -> None:
    """Let spans go to AgentOps' own service too, or stop that; off until it is called.

    It holds for this process and at any time. Nothing goes out without an API key
    (`AGENTOPS_API_KEY`), as AgentOps itself has it.
    """
    _service.enabled = enabled
    if enabled and _service.log_in is not None:
        held_back, _service.log_in = _service.log_in, None
        held_back()


def is_agentops_service_enabled() -> bool:
    """Return whether spans may go to AgentOps' service."""
    return _service.enabled


def instrument_agentops(provider: TracerProvider | None = None) -> None:
    """Make AgentOps write into our spans; call it before `agentops.init`.

    It may be called several times, and lasts until `uninstrument_agentops` was called as often.

    Args:
        provider: Tracer provider for AgentOps; None takes OpenTelemetry's global one, which is
            made if there is none. Of several calls, the last one with a provider counts.

    Raises:
        MissingExtraError: AgentOps is not installed.
    """
    require_extra("agentops", "agentops")
    if provider is not None:
        _service.provider = provider
    _PATCHES.use()


def uninstrument_agentops() -> None:
    """Undo one `instrument_agentops`; what AgentOps set up meanwhile stays."""
    _PATCHES.release()


def _patches() -> Iterator[Patch]:
    core = importlib.import_module("agentops.sdk.core")
    client = importlib.import_module("agentops.client.client")
    http = importlib.import_module("agentops.client.http.http_client").HttpClient
    yield core, "setup_telemetry", lambda _: _setup_telemetry
    for name in ("configure_logging", "intercept_opentelemetry_logging"):
        # The one opens a log file in the working directory, the other hides OpenTelemetry's log.
        yield client, name, _only_with_service
    yield client.Client, "_start_auth_task", _held_back_login
    yield http, "async_request", _gated_request
    yield http, "get_session", _gated_session
    yield from agentops_openai.patches()


_PATCHES = Patches(_patches)


def _setup_telemetry(*_: Any, **settings: Any) -> tuple[TracerProvider, Any]:
    """Stand in for AgentOps' set-up: our provider, no metrics, `print` left alone."""
    from opentelemetry.sdk.metrics import MeterProvider

    provider = _service.provider or _global_provider()
    if not get_span_processors(provider, AgentOpsServiceProcessor):
        provider.add_span_processor(AgentOpsServiceProcessor(settings))
    return provider, MeterProvider(shutdown_on_exit=False)


def _global_provider() -> TracerProvider:
    current = trace.get_tracer_provider()
    if isinstance(current, TracerProvider):
        return current
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    return provider


class AgentOpsServiceProcessor(SpanProcessor):
    """Sends spans to AgentOps' service in the background while that is enabled.

    Args:
        settings: What AgentOps would set up its own exporter with.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._batches: Any = None

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span; never blocks."""
        if not _service.enabled:
            return
        if self._batches is None:
            self._batches = self._make_batches()
        self._batches.on_end(span)

    def _make_batches(self) -> Any:
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # Why not AgentOps' exporter: 0.4.21's fails on private fields that OpenTelemetry dropped.
        session = requests.Session()
        session.auth = self._authorize
        endpoint = self._settings.get("exporter_endpoint")
        return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, session=session))

    def _authorize(self, request: Any) -> Any:
        """Add the token to a request, once the login has brought one."""
        token = self._settings["jwt_provider"]()
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    def shutdown(self) -> None:
        """Send what is queued, and stop."""
        if self._batches is not None:
            self._batches.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Say yes at once: AgentOps flushes at the end of each trace, in the agent's thread."""
        return True


def _only_with_service(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if _service.enabled else None

    return wrapped


def _held_back_login(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def start_auth_task(client: Any, api_key: str) -> None:
        if _service.enabled:
            original(client, api_key)
        else:
            _service.log_in = functools.partial(original, client, api_key)

    return start_auth_task


def _gated_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def async_request(*args: Any, **kwargs: Any) -> Any:
        return await original(*args, **kwargs) if _service.enabled else None

    return staticmethod(async_request)


def _gated_session(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_session() -> Any:
        if _service.enabled:
            return original()
        # Why this type: AgentOps expects what `requests` raises without a network.
        import requests

        raise requests.exceptions.ConnectionError(
            "AgentOps' service is off: call agentlightning.instrumentation.agentops."
            "enable_agentops_service() to use it."
        )

    return staticmethod(get_session)
