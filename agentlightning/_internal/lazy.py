"""Lazy exports: a package that offers many names and loads a module only when one is used."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(
    package: str, exports: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a module `__getattr__` and `__dir__` for `package` (PEP 562).

    Args:
        package: The package's `__name__`.
        exports: Public name to the module that defines it, with `:<name>` behind it where the
            name differs there. A name mapped to `"<package>.<name>"` is that submodule itself.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - it becomes the module's own.
        target = exports.get(name)
        if target is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module_name, _, attribute = target.partition(":")
        module = importlib.import_module(module_name)
        is_submodule = module_name == f"{package}.{name}"
        value = module if is_submodule else getattr(module, attribute or name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:  # noqa: N807 - it becomes the module's own.
        return sorted({*vars(sys.modules[package]), *exports})

    return __getattr__, __dir__
