"""The public names of an installed `agentlightning` and their signatures, as JSON.

Runs under any interpreter that has the package, needs only the standard library, and prints to
standard output. `tests/compat/surface_v030.json` was made with it from the released 0.3.0.
Usage: `python scripts/introspect_surface.py > surface.json`
"""

import enum
import importlib
import inspect
import json
import sys
import typing
import warnings
from typing import Any

# The modules that the reference contract names; what else 0.3.0 has inside is its own business.
MODULES = [
    "agentlightning.adapter",
    "agentlightning.algorithm",
    "agentlightning.algorithm.utils",
    "agentlightning.client",
    "agentlightning.config",
    "agentlightning.emitter",
    "agentlightning.env_var",
    "agentlightning.execution",
    "agentlightning.instrumentation",
    "agentlightning.litagent",
    "agentlightning.llm_proxy",
    "agentlightning.logging",
    "agentlightning.reward",
    "agentlightning.runner",
    "agentlightning.semconv",
    "agentlightning.server",
    "agentlightning.store",
    "agentlightning.store.base",
    "agentlightning.store.client_server",
    "agentlightning.store.collection",
    "agentlightning.store.collection_based",
    "agentlightning.store.memory",
    "agentlightning.store.threading",
    "agentlightning.store.utils",
    "agentlightning.store.mongo",
    "agentlightning.tracer",
    "agentlightning.tracer.agentops",
    "agentlightning.tracer.base",
    "agentlightning.tracer.dummy",
    "agentlightning.tracer.otel",
    "agentlightning.tracer.weave",
    "agentlightning.trainer",
    "agentlightning.trainer.init_utils",
    "agentlightning.types",
    "agentlightning.utils.id",
    "agentlightning.utils.metrics",
    "agentlightning.utils.otel",
    "agentlightning.utils.otlp",
    "agentlightning.utils.server_launcher",
    "agentlightning.utils.system_snapshot",
    "agentlightning",
]


def signature_of(value: Any) -> list[list[str | None]] | None:
    """Return [name, kind, default] of each parameter; None where Python cannot tell."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return None
    return [
        [p.name, p.kind.name, None if p.default is p.empty else default_text(p.default)]
        for p in parameters
    ]


def default_text(value: Any) -> str:
    """Return a default as text that does not depend on memory addresses."""
    plain = isinstance(value, str | int | float | bool | tuple | list | dict | type(None))
    return repr(value) if plain else f"<{type(value).__name__}>"


def describe(value: Any) -> dict[str, Any]:
    """Describe one public object."""
    if inspect.ismodule(value):
        return {"kind": "module"}
    if typing.is_typeddict(value):
        return {"kind": "typeddict", "fields": sorted(value.__annotations__)}
    if inspect.isclass(value):
        return describe_class(value)
    if inspect.isroutine(value):
        is_async = inspect.iscoroutinefunction(value)
        return {"kind": "function", "async": is_async, "parameters": signature_of(value)}
    if isinstance(value, str | int | float):
        return {"kind": "constant", "value": value}
    return {"kind": "value"}


def describe_class(value: type) -> dict[str, Any]:
    """Describe a class by its constructor, fields and public members."""
    if issubclass(value, enum.Enum):
        return {"kind": "enum", "members": {item.name: item.value for item in value}}
    found: dict[str, Any] = {"kind": "class"}
    fields = getattr(value, "model_fields", None)
    if fields is not None:
        found["fields"] = {name: field.is_required() for name, field in fields.items()}
    else:
        found["parameters"] = signature_of(value)
    members = {
        name: describe_member(value, name, member)
        for owner in reversed(value.__mro__)
        if owner.__module__.partition(".")[0] == "agentlightning"
        for name, member in vars(owner).items()
        if not name.startswith(("_", "model_")) and is_member(member)
    }
    if members:
        found["members"] = members
    return found


def is_member(member: Any) -> bool:
    """Return whether a class attribute is behaviour rather than data."""
    return isinstance(member, property | staticmethod | classmethod) or inspect.isroutine(member)


def describe_member(owner: type, name: str, member: Any) -> dict[str, Any]:
    """Describe a property or method."""
    if isinstance(member, property):
        return {"kind": "property"}
    if isinstance(member, staticmethod | classmethod):
        return {"kind": "static", "parameters": signature_of(getattr(owner, name))}
    return describe(member)


def public_names(module: Any) -> list[str]:
    """Return a module's public names: `__all__`, or what it defines or gathers itself."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(set(listed))
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and is_offered_by(module, name, value)
    )


def is_offered_by(module: Any, name: str, value: Any) -> bool:
    """Return whether a module without `__all__` means to offer a name, rather than uses it."""
    if isinstance(value, typing.TypeVar | typing.ParamSpec) or name == "TYPE_CHECKING":
        return False
    is_package = hasattr(module, "__path__")
    if value is Any:
        return is_package and name != "Any"
    if inspect.ismodule(value):
        return module.__name__ == "agentlightning"
    if inspect.isclass(value) or inspect.isroutine(value):
        owner = value.__module__ or ""
        return owner.startswith(module.__name__) if is_package else owner == module.__name__
    is_alias = is_package and getattr(typing, name, None) is not value
    return is_alias or (name.isupper() and isinstance(value, str | int | float | list | tuple))


def surface(modules: list[str]) -> dict[str, dict[str, Any]]:
    """Return module name to public name to description; absent modules are left out.

    An object that an earlier module offers too is described there, and named here.
    """
    found: dict[str, dict[str, Any]] = {}
    places: dict[int, str] = {}
    for module_name in modules:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        names = found[module_name] = {}
        for name in public_names(module):
            value = getattr(module, name, None)
            place = places.setdefault(id(value), f"{module_name}:{name}")
            is_object = inspect.isclass(value) or inspect.isroutine(value)
            seen_before = is_object and place != f"{module_name}:{name}"
            names[name] = {"kind": "same", "as": place} if seen_before else describe(value)
    return found


def main() -> None:
    """Print the surface, one name a line, so that differences read well."""
    warnings.simplefilter("ignore")
    found = surface(MODULES)
    lines = [
        f" {json.dumps(module)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(names[name])}" for name in names)
        + "\n }"
        for module, names in found.items()
    ]
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
