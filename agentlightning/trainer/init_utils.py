"""Component specifications: from whatever the user wrote to an object of the right type."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from agentlightning.errors import ComponentNotFoundError, ConfigurationError

__all__ = [
    "OptionalDefaults",
    "build_component",
    "instantiate_component",
    "instantiate_from_spec",
    "load_class",
]

T = TypeVar("T")

OptionalDefaults = Mapping[str, Callable[[], Any] | Any]
"""Constructor arguments to give where the constructor has a parameter of that name; a callable
is called to get the value."""


def load_class(path: str) -> Any:
    """Import what a dotted path such as `package.module.Class` names.

    Raises:
        ComponentNotFoundError: There is no such module or name.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ComponentNotFoundError(
            f"{path!r} is neither a registered name nor a dotted path such as 'package.module.Class'."
        )
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # The module exists, and something it imports does not.
        raise ComponentNotFoundError(f"There is no module {error.name!r} for {path!r}.") from error
    except AttributeError as error:
        raise ComponentNotFoundError(f"Module {module_name!r} has no {name!r}.") from error


def instantiate_component(
    cls: Callable[..., T],
    provided_kwargs: Mapping[str, Any] | None = None,
    optional_defaults: OptionalDefaults | None = None,
) -> T:
    """Call a class or factory with the given arguments, and with the defaults it can take."""
    arguments = dict(provided_kwargs or {})
    if optional_defaults:
        accepted = _parameter_names(cls)
        for name, default in optional_defaults.items():
            if name in accepted and name not in arguments:
                arguments[name] = default() if callable(default) else default
    return cls(**arguments)


def _parameter_names(function: Callable[..., Any]) -> set[str]:
    return {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}
    }


def _resolve_name(name: str, registry: Mapping[str, Any] | None) -> Any:
    target = (registry or {}).get(name, name)
    if not isinstance(target, str):
        return target
    if "." in target:
        return load_class(target)
    known = ", ".join(sorted(registry or {})) or "none"
    raise ComponentNotFoundError(
        f"{name!r} is not a known name ({known}) and not a dotted path such as "
        "'package.module.Class'."
    )


def instantiate_from_spec(
    spec: str | Mapping[str, Any],
    *,
    spec_name: str,
    registry: Mapping[str, Any] | None = None,
    optional_defaults: OptionalDefaults | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: Callable[..., Any] | None = None,
) -> Any:
    """Build a component from a name, or from a dict of `type` (or `name`) and arguments.

    Raises:
        ConfigurationError: The dict names no type where one is needed.
        ComponentNotFoundError: The name cannot be resolved.
    """
    if isinstance(spec, str):
        return instantiate_component(
            _resolve_name(spec, registry), optional_defaults=optional_defaults
        )
    arguments = dict(spec)
    target: Callable[..., Any] | None = None
    if "type" in arguments:
        kind = arguments.pop("type")
        target = _resolve_name(kind, registry) if isinstance(kind, str) else kind
    elif registry and arguments.get("name") in registry:
        target = _resolve_name(arguments.pop("name"), registry)
    elif not dict_requires_type:
        target = dict_default_cls
    if target is None:
        raise ConfigurationError(
            f"{spec_name} dict must have a 'type' key with a registered name or a dotted path."
        )
    return instantiate_component(target, arguments, optional_defaults)


def build_component(  # noqa: PLR0913 - Compat 0.3.0: the signature is theirs.
    spec: Any,
    *,
    expected_type: type[T],
    spec_name: str,
    default_factory: Callable[[], T] | None = None,
    allow_none: bool = False,
    optional_defaults: OptionalDefaults | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: Callable[..., Any] | None = None,
    type_error_fmt: str | None = None,
    invalid_spec_error_fmt: str | None = None,
    registry: Mapping[str, Any] | None = None,
) -> T | None:
    """Build a component from any specification.

    Args:
        spec: An instance (returned as it is), None, a class, a factory without arguments, a
            registered name or dotted path, or a dict with `type` and constructor arguments.
        expected_type: What the result must be an instance of.
        spec_name: What error messages call the component.
        default_factory: Makes the component where `spec` is None.
        allow_none: Return None where `spec` is None and there is no default.
        optional_defaults: See `OptionalDefaults`.
        dict_requires_type: Whether a dict must name its type.
        dict_default_cls: The class for a dict that need not name its type.
        type_error_fmt: Message for a wrong type, with `{type_name}` and `{expected_type}`.
        invalid_spec_error_fmt: Message for an unusable spec, with `{actual_type}` and
            `{expected_type}`.
        registry: Short names, mapped to classes or dotted paths.

    Raises:
        TypeError: What was built is not of the expected type.
        ConfigurationError: The specification is missing or cannot be used.
    """
    if isinstance(spec, expected_type):
        return spec
    if spec is None:
        if default_factory is not None:
            return default_factory()
        if allow_none:
            return None
        raise ConfigurationError(f"{spec_name} must be given: there is no default.")
    if isinstance(spec, type):
        built = instantiate_component(
            cast("Callable[..., Any]", spec), optional_defaults=optional_defaults
        )
    elif isinstance(spec, str | Mapping):
        built = instantiate_from_spec(
            cast("str | Mapping[str, Any]", spec),
            spec_name=spec_name,
            registry=registry,
            optional_defaults=optional_defaults,
            dict_requires_type=dict_requires_type,
            dict_default_cls=dict_default_cls,
        )
    elif callable(spec):
        built = spec()
    else:
        message = invalid_spec_error_fmt or (
            "Cannot make a {expected_type} from a {actual_type}: give an instance, a class, a "
            "factory, a name or a dict."
        )
        raise ConfigurationError(
            message.format(actual_type=type(spec), expected_type=expected_type.__name__)
        )
    if not isinstance(built, expected_type):
        message = type_error_fmt or (
            f"{spec_name} must be a {{expected_type}}, not a {{type_name}}."
        )
        raise TypeError(
            message.format(type_name=type(built).__name__, expected_type=expected_type.__name__)
        )
    return built
