"""`agentlightning` under the spelling that some documents use.

Every `agent_lightning.x.y` is the very module `agentlightning.x.y`, so classes and states exist
once whatever name they were imported by.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

_ALIAS = f"{__name__}."
_REAL = "agentlightning"


class _AliasLoader(InspectLoader):
    """Hands out a module that is loaded under its real name."""

    def __init__(self, spec: ModuleSpec) -> None:
        self._spec = spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(self._spec.name)

    def exec_module(self, module: ModuleType) -> None:
        # The import system has put the alias here; the module keeps its own identity.
        module.__spec__ = self._spec

    def get_code(self, fullname: str) -> CodeType | None:
        loader = self._spec.loader
        return loader.get_code(self._spec.name) if isinstance(loader, InspectLoader) else None

    def get_source(self, fullname: str) -> str | None:
        loader = self._spec.loader
        return loader.get_source(self._spec.name) if isinstance(loader, InspectLoader) else None

    def is_package(self, fullname: str) -> bool:
        return self._spec.submodule_search_locations is not None


class _AliasFinder(MetaPathFinder):
    """Finds `agent_lightning.x` where `agentlightning.x` is."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_ALIAS):
            return None
        spec = importlib.util.find_spec(f"{_REAL}.{fullname.removeprefix(_ALIAS)}")
        if spec is None:
            return None
        return importlib.util.spec_from_loader(fullname, _AliasLoader(spec), origin=spec.origin)


sys.meta_path.insert(0, _AliasFinder())


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module(_REAL), name)


def __dir__() -> list[str]:
    return dir(importlib.import_module(_REAL))
