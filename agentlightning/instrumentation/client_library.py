"""One client library and the maintained instrumentations that can make it say what it does."""

import importlib
import logging
import threading
from typing import Any

from agentlightning.errors import ConfigurationError, MissingExtraError
from agentlightning.instrumentation.patches import is_installed, require_library
from agentlightning.instrumentation.wrappers import strip_wrappers

__all__ = ["ClientLibrary"]

logger = logging.getLogger(__name__)


class ClientLibrary:
    """Switches a library's instrumentation on and off for any number of users of this process.

    Args:
        module: The library, as it is imported.
        instrumentors: Distribution, module and class of its instrumentations, the best one first.
    """

    def __init__(self, module: str, *instrumentors: tuple[str, str, str]) -> None:
        self.module = module
        self._instrumentors = instrumentors
        self._lock = threading.Lock()
        self._users = 0
        self._running: Any = None

    @property
    def is_installed(self) -> bool:
        """Whether the library can be imported."""
        return is_installed(self.module)

    @property
    def can_be_instrumented(self) -> bool:
        """Whether the library and an instrumentation of it are installed."""
        return self.is_installed and self._installed() is not None

    def _installed(self) -> tuple[str, str] | None:
        found = ((module, name) for _, module, name in self._instrumentors if is_installed(module))
        return next(found, None)

    def instrument(self, provider: Any = None) -> None:
        """Record the library's calls; again is harmless, and counted.

        One that somebody else switched on stays theirs, and is not switched off by us.

        Args:
            provider: OpenTelemetry tracer provider that gets the spans; None for the global one.

        Raises:
            ConfigurationError: The library or its instrumentation is not installed, or the
                instrumentation refuses this version of the library.
        """
        require_library(self.module)
        found = self._installed()
        if found is None:
            raise MissingExtraError(self._instrumentors[0][0], "instrumentation")
        with self._lock:
            if self._users == 0:
                self._start(getattr(importlib.import_module(found[0]), found[1])(), provider)
            self._users += 1

    def _start(self, instrumentor: Any, provider: Any) -> None:
        if instrumentor.is_instrumented_by_opentelemetry:
            logger.debug("library was instrumented before", extra={"library": self.module})
            return
        instrumentor.instrument(tracer_provider=provider)
        if not instrumentor.is_instrumented_by_opentelemetry:
            raise ConfigurationError(
                f"{type(instrumentor).__module__} refuses the installed version of {self.module}: "
                "update one of them."
            )
        self._running = instrumentor

    def uninstrument(self) -> None:
        """Undo one `instrument`; harmless when there was none."""
        with self._lock:
            if self._users == 0:
                return
            self._users -= 1
            if self._users == 0 and self._running is not None:
                self._running.uninstrument()
                strip_wrappers(self.module, type(self._running).__module__)
                self._running = None
