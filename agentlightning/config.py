"""Command-line options made from constructors: `lightning_cli(Trainer, MyAgent)`.

It knows plain values and lists of them; components with richer arguments are built in Python.
"""

from __future__ import annotations

import argparse
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

__all__ = ["lightning_cli"]

_NULL_WORDS = frozenset({"none", "null", "~", "nil"})
_TRUE_WORDS = frozenset({"yes", "true", "t", "y", "1"})
_FALSE_WORDS = frozenset({"no", "false", "f", "n", "0"})

Parser = Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """One constructor parameter as a command-line option."""

    owner: type
    parameter: str
    parse: Parser
    is_list: bool
    required: bool
    default: Any

    @property
    def flag(self) -> str:
        return f"--{self.owner.__name__.lower()}.{self.parameter.replace('_', '-')}"

    @property
    def dest(self) -> str:
        return f"{self.owner.__name__.lower()}.{self.parameter}"


def lightning_cli(*classes: type[Any]) -> Any:
    """Build one object of each class from the command line.

    A parameter becomes `--<class in lower case>.<parameter-with-dashes>`. Optional numbers and
    strings take none, null, ~ or nil; booleans take yes/true/t/y/1 and no/false/f/n/0; lists take
    several values; any other type is passed as the string that was typed. A parameter is required
    when it has no default and is not optional. `--help` lists them all.

    Returns:
        The object, or a tuple of them when several classes are given.
    """
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options = [option for owner in classes for option in _options(owner)]
    for option in options:
        parser.add_argument(
            option.flag,
            dest=option.dest,
            type=option.parse,
            nargs="*" if option.is_list else None,
            required=option.required,
            default=option.default,
            help=f"{option.parameter} of {option.owner.__name__}",
        )
    values = vars(parser.parse_args())
    built = tuple(
        owner(**{o.parameter: values[o.dest] for o in options if o.owner is owner})
        for owner in classes
    )
    return built[0] if len(built) == 1 else built


def nullable_str(value: str) -> str | None:
    """Return the string, or None for a word that means nothing."""
    return None if value.lower() in _NULL_WORDS else value


def nullable_int(value: str) -> int | None:
    """Return the whole number, or None for a word that means nothing."""
    return None if value.lower() in _NULL_WORDS else int(value)


def nullable_float(value: str) -> float | None:
    """Return the number, or None for a word that means nothing."""
    return None if value.lower() in _NULL_WORDS else float(value)


def _boolean(value: str) -> bool:
    word = value.lower()
    if word in _TRUE_WORDS:
        return True
    if word in _FALSE_WORDS:
        return False
    raise argparse.ArgumentTypeError(f"{value!r} is not a yes or no")


_PARSERS: dict[Any, Parser] = {int: int, float: float, bool: _boolean}
_NULLABLE_PARSERS: dict[Any, Parser] = {str: nullable_str, int: nullable_int, float: nullable_float}


def _options(owner: type) -> Iterator[_Option]:
    constructor = inspect.signature(owner)
    hints = get_type_hints(owner.__init__)
    for name, parameter in constructor.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = hints.get(name, str)
        inner, optional = _strip_optional(annotation)
        is_list = get_origin(inner) is list
        if is_list:
            (inner,) = get_args(inner)
        has_default = parameter.default is not parameter.empty
        yield _Option(
            owner=owner,
            parameter=name,
            parse=(_NULLABLE_PARSERS if optional and not is_list else _PARSERS).get(inner, str),
            is_list=is_list,
            required=not has_default and not optional,
            default=parameter.default if has_default else None,
        )


def _strip_optional(annotation: Any) -> tuple[Any, bool]:
    """Return what an optional type holds and whether it was optional."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    members = [member for member in get_args(annotation) if member is not type(None)]
    optional = len(members) < len(get_args(annotation))
    return (members[0] if len(members) == 1 else str), optional
