"""The public surface of 0.3.0, name by name and parameter by parameter, on this package.

`surface_v030.json` was taken from the release by introspection. `pending.toml` lists what is not
there yet or differs on purpose, each with its reason; the test fails when the list is out of date
in either direction, so it can only shrink.
"""

import importlib
import json
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.introspect_surface import describe

HERE = Path(__file__).parent
SURFACE: dict[str, dict[str, Any]] = json.loads((HERE / "surface_v030.json").read_text())
PENDING: dict[str, dict[str, str]] = tomllib.loads((HERE / "pending.toml").read_text())
BY_POSITION = {"POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD"}

Parameter = tuple[str, str, str | None]


def problems_of_module(module_name: str) -> Iterator[str]:
    """Yield one line for each way in which our module falls short of theirs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("agentlightning"):
            raise
        yield module_name
        return
    for name, theirs in SURFACE[module_name].items():
        try:
            ours = getattr(module, name)
        except AttributeError:
            yield f"{module_name}:{name}"
            continue
        yield from problems_of_name(f"{module_name}:{name}", theirs, ours)


def problems_of_name(place: str, theirs: dict[str, Any], ours: Any) -> Iterator[str]:
    if theirs["kind"] != "same":
        yield from problems(place, theirs, describe(ours))
        return
    module_name, _, name = theirs["as"].partition(":")
    try:
        other = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError):
        return  # The place that describes it is reported itself.
    if other is not ours:
        yield f"{place} is another object than {theirs['as']}"


def problems(place: str, theirs: dict[str, Any], ours: dict[str, Any]) -> Iterator[str]:
    """Compare two descriptions of one object."""
    if theirs["kind"] == "value":
        return
    if theirs["kind"] != ours["kind"]:
        yield f"{place} is a {ours['kind']}, was a {theirs['kind']}"
        return
    if theirs.get("async") and not ours["async"]:
        yield f"{place} is not a coroutine function"
    if "value" in theirs and theirs["value"] != ours["value"]:
        yield f"{place} is {ours['value']!r}, was {theirs['value']!r}"
    if theirs.get("parameters") is not None and "fields" not in ours:
        yield from parameter_problems(place, theirs["parameters"], ours["parameters"] or [])
    yield from field_problems(place, theirs.get("fields", {}), ours.get("fields", {}))
    for member, value in theirs.get("members", {}).items():
        found = ours.get("members", {}).get(member)
        if found is None:
            yield f"{place}.{member}"
        elif theirs["kind"] != "enum":
            yield from problems(f"{place}.{member}", value, found)
        elif found != value:
            yield f"{place}.{member} is {found!r}, was {value!r}"


def field_problems(place: str, theirs: Any, ours: Any) -> Iterator[str]:
    for field in theirs:
        if field not in ours:
            yield f"{place}.{field}"
        elif isinstance(theirs, dict) and ours[field] and not theirs[field]:
            yield f"{place}.{field} is required"


def parameter_problems(place: str, theirs: list[Parameter], ours: list[Parameter]) -> Iterator[str]:
    """Yield what a call written for `theirs` would trip over."""
    found = {name: (index, kind, default) for index, (name, kind, default) in enumerate(ours)}
    takes_any_keyword = any(kind == "VAR_KEYWORD" for _, kind, _ in ours)
    for index, (name, kind, default) in enumerate(theirs):
        if name.startswith("_"):
            continue
        if kind.startswith("VAR_"):
            if not any(our_kind == kind for _, our_kind, _ in ours):
                yield f"{place}({'*' if kind == 'VAR_POSITIONAL' else '**'}{name})"
            continue
        if name not in found:
            if not (takes_any_keyword and kind == "KEYWORD_ONLY"):
                yield f"{place}({name})"
            continue
        our_index, our_kind, our_default = found[name]
        if kind in BY_POSITION and (our_kind not in BY_POSITION or our_index != index):
            yield f"{place}({name}) cannot be given by position {index}"
        if our_kind == "POSITIONAL_ONLY" and kind != "POSITIONAL_ONLY":
            yield f"{place}({name}) cannot be given by name"
        if default is not None and our_default is None:
            yield f"{place}({name}) has no default"
        elif default != our_default and default is not None and "<" not in default:
            yield f"{place}({name}) defaults to {our_default}, was {default}"
    known = {name for name, _, _ in theirs}
    takes_the_rest = any(kind.startswith("VAR_") for _, kind, _ in theirs)
    for name, kind, default in ours:
        is_new = name not in known and not kind.startswith("VAR_")
        if is_new and default is None and not takes_the_rest:
            yield f"{place}({name}) is required"


@pytest.mark.parametrize("module_name", SURFACE)
def test_module_offers_what_0_3_0_offered(module_name: str):
    """Every name and parameter is there, or is listed with a reason."""
    found = set(problems_of_module(module_name))
    listed = [
        place
        for section in PENDING.values()
        for place in section
        if place.rstrip("*").split(" ")[0].partition(":")[0] == module_name
    ]
    unlisted = [line for line in found if not any(covers(place, line) for place in listed)]
    stale = [place for place in listed if not any(covers(place, line) for line in found)]
    assert sorted(unlisted) == [], "missing or changed, and not listed in pending.toml"
    assert sorted(stale) == [], "present now: remove it from pending.toml"


def covers(place: str, line: str) -> bool:
    """Return whether an entry of the list, which may end in `*`, means a problem."""
    return line.startswith(place[:-1]) if place.endswith("*") else line == place


def test_every_pending_entry_has_a_reason():
    """An exception without a reason is a bug."""
    for section in PENDING.values():
        for place, reason in section.items():
            assert len(reason) > 10, place


def test_root_offers_137_names():
    """The list of root names is the contract's."""
    assert len(SURFACE["agentlightning"]) == 137
