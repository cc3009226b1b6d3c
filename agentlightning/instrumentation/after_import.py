"""Doing something to a module once it is imported, without importing it.

For libraries that take seconds to import, and that a program may never use.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["AfterImport"]


class AfterImport:
    """Runs an action when a module is there: at once, or after its import.

    Args:
        module: Full name of the module.
        action: Called without arguments, in the thread that imports.
    """

    def __init__(self, module: str, action: Callable[[], None]) -> None:
        self._module = module
        self._action = action
        self._finder: _Finder | None = None

    def start(self) -> None:
        """Run the action if the module is imported, else wait for it."""
        if self._module in sys.modules:
            self._action()
        elif self._finder is None:
            self._finder = _Finder(self._module, self._imported)
            sys.meta_path.insert(0, self._finder)

    def _imported(self) -> None:
        self.cancel()
        self._action()

    def cancel(self) -> None:
        """Stop waiting; harmless when nothing waits."""
        if self._finder is not None and self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        self._finder = None


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing of its own: it lets the others find the module, and its loader tell."""

    def __init__(self, module: str, done: Callable[[], None]) -> None:
        self._module = module
        self._done = done
        self._is_asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._module or self._is_asking:
            return None
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _TellingLoader(spec.loader, self._done)
        return spec


class _TellingLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, done: Callable[[], None]) -> None:
        self._loader = loader
        self._done = done

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._done()
