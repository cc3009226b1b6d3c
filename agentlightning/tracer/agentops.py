"""The tracer that drives AgentOps: its spans, and its sessions, in our trace contexts."""

import builtins
import importlib
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, Status, StatusCode, get_current_span

from agentlightning._internal.extra import require_extra
from agentlightning.instrumentation.agentops import (
    instrument_agentops,
    is_agentops_service_enabled,
    uninstrument_agentops,
)
from agentlightning.instrumentation.bridges import instrument_bridges, uninstrument_bridges
from agentlightning.instrumentation.wrappers import strip_wrappers
from agentlightning.tracer.exporter import ExportOptions
from agentlightning.tracer.otel import OtelTracer

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["AgentOpsTracer"]


class AgentOpsTracer(OtelTracer):
    """Records what AgentOps sees: model calls, agents, tools and its own decorators.

    It is an `OtelTracer` whose trace contexts are AgentOps sessions, so that the root span of a
    context is `<name>.session`. Spans go to the store; to AgentOps' service only after
    `instrumentation.agentops.enable_agentops_service()`. Any number of contexts may run at once.
    AgentOps is set up once per process, with the last worker its instrumentation ends.

    Args:
        agentops_managed: Whether this tracer sets AgentOps up and opens its sessions. If not,
            your program does (`agentops.init`), and the spans are recorded all the same.
        instrument_managed: Whether token ids are added to AgentOps' and LiteLLM's spans, and
            AgentOps is kept from its service.
        daemon: Accepted for compatibility; there is no process to be a daemon any more.
        store: See `OtelTracer`, like the next two.
        flush_timeout: See there.
        export: See there.

    Raises:
        MissingExtraError: AgentOps is not installed; the extra is `agentops`.
    """

    def __init__(
        self,
        *,
        agentops_managed: bool = True,
        instrument_managed: bool = True,
        daemon: bool = True,
        store: "LightningStore | None" = None,
        flush_timeout: float = 30.0,
        export: ExportOptions | None = None,
    ) -> None:
        require_extra("agentops", "agentops")
        super().__init__(store=store, flush_timeout=flush_timeout, export=export)
        self.agentops_managed = agentops_managed
        self.instrument_managed = instrument_managed
        self.daemon = daemon

    def __getstate__(self) -> dict[str, Any]:
        kept = ("agentops_managed", "instrument_managed", "daemon")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in kept}}

    def _switch_on(self, provider: TracerProvider) -> None:
        # Why also when only AgentOps is managed: it must not set up a provider of its own.
        instrument_agentops(provider)
        if self.instrument_managed:
            instrument_bridges()
        if self.agentops_managed:
            _Sessions.begin()
        super()._switch_on(provider)

    def _switch_off(self) -> None:
        super()._switch_off()
        if self.agentops_managed:
            _Sessions.end()
        if self.instrument_managed:
            uninstrument_bridges()
        uninstrument_agentops()

    def _root_span(self, name: str | None) -> AbstractContextManager[None]:
        return _session(name or "agent") if self.agentops_managed else nullcontext()

    def get_langchain_handler(self, tags: list[str] | None = None) -> Any:
        """Return AgentOps' LangChain callback handler; its spans go below the current span.

        Make one for each rollout, inside its trace context.

        Args:
            tags: Labels for its spans.

        Raises:
            MissingExtraError: LangChain is not installed.
        """
        require_extra("agentops", "langchain_core")
        module = importlib.import_module("agentops.integration.callbacks.langchain")
        handler = module.LangchainCallbackHandler(tags=tags or [], auto_session=False)
        # Not the span itself: the handler would end it as it goes.
        handler.session_span = NonRecordingSpan(get_current_span().get_span_context())
        return handler

    get_langchain_callback_handler = get_langchain_handler


class _Sessions:
    """AgentOps as this process has it: one client, which any number of workers share."""

    lock = threading.Lock()
    users = 0
    switched_on = False
    """Whether its instrumentation is our doing, and not the program's."""

    @classmethod
    def begin(cls) -> None:
        agentops = importlib.import_module("agentops")
        with cls.lock:
            cls.users += 1
            if cls.users > 1:
                return
            # It watches imports as long as it instruments.
            cls.switched_on = builtins.__import__.__module__ != "agentops.instrumentation"
            if not agentops.get_client().initialized:
                url = is_agentops_service_enabled()
                agentops.init(auto_start_session=False, log_session_replay_url=url)
            elif cls.switched_on:
                importlib.import_module("agentops.instrumentation").instrument_all()

    @classmethod
    def end(cls) -> None:
        with cls.lock:
            cls.users -= 1
            if cls.users == 0 and cls.switched_on:
                instrumentation = importlib.import_module("agentops.instrumentation")
                instrumentation.uninstrument_all()
                for library in (*instrumentation.PROVIDERS, *instrumentation.AGENTIC_LIBRARIES):
                    strip_wrappers(library.partition(".")[0], "agentops")


@contextmanager
def _session(name: str) -> Generator[None]:
    agentops = importlib.import_module("agentops")
    session = agentops.start_trace(trace_name=name)
    # The context around is put back by the trace context, in whatever task it is left.
    session.token = None
    try:
        yield
    except BaseException as error:
        session.span.set_status(Status(StatusCode.ERROR, repr(error)))
        agentops.end_trace(session, "ERROR")
        raise
    session.span.set_status(Status(StatusCode.OK))
    agentops.end_trace(session, "OK")
