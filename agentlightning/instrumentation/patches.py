"""Replacing attributes of other people's modules and classes, so that it can be undone."""

import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from agentlightning.errors import ConfigurationError
from agentlightning.instrumentation.after_import import AfterImport

__all__ = ["Patch", "Patches", "is_installed", "require_library"]

Patch = tuple[Any, str, Callable[[Any], Any]]
"""A module or class, the name of its attribute, and what makes the replacement of the original."""


class Patches:
    """A set of replacements that its first user puts in place and its last one takes away.

    All methods may be called from any thread.

    Args:
        make: Called when the first user comes; gives the replacements.
        after: Module to wait for where it is not imported yet; None makes them at once.
    """

    def __init__(self, make: Callable[[], Iterable[Patch]], *, after: str | None = None) -> None:
        self._make = make
        self._after = after
        self._waiting = AfterImport(after, self._imported) if after else None
        self._lock = threading.Lock()
        self._users = 0
        self._undo: list[tuple[Any, str, Any, Any]] = []

    def use(self) -> None:
        """Put the replacements in place, or count one more user of them."""
        with self._lock:
            if self._users == 0:
                if self._waiting is None or self._after in sys.modules:
                    self._put()
                else:
                    self._waiting.start()
            self._users += 1

    def _imported(self) -> None:
        with self._lock:
            if self._users and not self._undo:
                self._put()

    def _put(self) -> None:
        for owner, name, replace in self._make():
            original = inspect.getattr_static(owner, name)
            replacement = replace(getattr(owner, name))
            self._undo.append((owner, name, original, replacement))
            setattr(owner, name, replacement)

    def release(self) -> None:
        """Undo one `use`; harmless when there was none.

        What somebody else has replaced since stays theirs.
        """
        with self._lock:
            if self._users == 0:
                return
            self._users -= 1
            if self._users:
                return
            if self._waiting is not None:
                self._waiting.cancel()
            for owner, name, original, replacement in reversed(self._undo):
                if inspect.getattr_static(owner, name) is replacement:
                    setattr(owner, name, original)
            self._undo.clear()


def is_installed(module: str) -> bool:
    """Return whether a library can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # A parent package is not there.
        return False


def require_library(module: str) -> None:
    """Check that a library which no extra of ours brings is installed.

    Raises:
        ConfigurationError: It is not.
    """
    if not is_installed(module):
        raise ConfigurationError(f"{module} is not installed: install it, or leave this out.")
