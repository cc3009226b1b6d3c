"""JSON as text: reading what servers really send, and cutting members out without touching the rest.

A client must get the bytes that the upstream sent, less what only we asked for. Parsing and
writing again would change spacing, escapes and numbers, so members are cut out of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

__all__ = ["Cut", "cut_members", "parse_json", "write_json"]

_skip_space = re.compile(r"[ \t\n\r]*").match
_SPACES = " \t\n\r"
_read_value = json.JSONDecoder().raw_decode

# vLLM writes this number in place of minus infinity, which JSON cannot say.
_LOWEST_LOGPROB = -9999.0


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON text.

    Beyond the standard, a lone surrogate (half an emoji, from a server that cut one in two)
    becomes U+FFFD, `-Infinity` becomes -9999.0, and `NaN` and `Infinity` become None.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            return _without_surrogates(json.loads(data, parse_constant=_constant))
        except RecursionError as error:
            raise ValueError("The JSON text is nested too deeply.") from error


def _constant(name: str) -> float | None:
    return _LOWEST_LOGPROB if name == "-Infinity" else None


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value).items()
        return {_without_surrogates(key): _without_surrogates(item) for key, item in members}
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Which members of an object to take out; members that are null already are left alone."""

    drop: frozenset[str] = frozenset()
    """Members to remove."""
    blank: frozenset[str] = frozenset()
    """Members whose value becomes null."""
    items: Mapping[str, Cut] = field(default_factory=dict[str, "Cut"])
    """What to cut from each object in the array under a key."""


_Edit = tuple[int, int, str]


def cut_members(data: bytes, cut: Cut, value: Any = None) -> bytes:
    """Return a JSON object without some members, and every other byte as it was.

    Args:
        data: The text.
        cut: What to take out.
        value: The same object as `parse_json` returned it, if known; saves time, and it loses
            the members as well.

    Raises:
        ValueError: The text is not a JSON object.

    Example:
        >>> cut_members(b'{"a": 1, "b" : [2], "c":3.00}', Cut(drop=frozenset("b")))
        b'{"a": 1, "c":3.00}'
    """
    # Perf: a text that we would have written the same way can be written again, shorter, which
    # takes a tenth of the time that finding the places to cut does.
    if value is None or write_json(value) != data:
        return _cut_text(data, cut)
    return write_json(value) if _cut_in_place(value, cut) else data


def _cut_in_place(value: dict[str, Any], cut: Cut) -> bool:
    """Take members out of a parsed object; return whether there were any."""
    is_cut = False
    for key in cut.drop:
        if value.get(key) is not None:
            del value[key]
            is_cut = True
    for key in cut.blank:
        if value.get(key) is not None:
            value[key] = None
            is_cut = True
    for key, inner in cut.items.items():
        items = value.get(key)
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and _cut_in_place(cast("dict[str, Any]", item), inner):
                is_cut = True
    return is_cut


def _cut_text(data: bytes, cut: Cut) -> bytes:
    text = data.decode()
    edits: list[_Edit] = []
    try:
        _cut_object(text, _after_space(text, 0), cut, edits)
    except IndexError as error:
        raise ValueError("The text ends within a JSON value.") from error
    if not edits:
        return data
    pieces: list[str] = []
    kept_from = 0
    for start, end, replacement in sorted(edits):
        pieces += (text[kept_from:start], replacement)
        kept_from = end
    pieces.append(text[kept_from:])
    return "".join(pieces).encode()


def _after_space(text: str, at: int) -> int:
    # Perf: most JSON on the wire has no spaces; looking first saves 40 µs of a 64-token answer.
    if text[at] not in _SPACES:
        return at
    match = _skip_space(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, allowed: str) -> str:
    if text[at] not in allowed:
        raise ValueError(f"The JSON text has {text[at]!r} at {at}, where {allowed!r} may stand.")
    return text[at]


def _cut_object(text: str, at: int, cut: Cut, edits: list[_Edit]) -> int:
    """Collect the edits of the object that begins at `at`; return where it ends."""
    _expect(text, at, "{")
    at = _after_space(text, at + 1)
    kept_end: int | None = None
    dropped_from: int | None = None
    while text[at] != "}":
        start = at
        _expect(text, at, '"')
        key, at = _read_value(text, at)
        at = _after_space(text, at)
        _expect(text, at, ":")
        value_at = _after_space(text, at + 1)
        end = _cut_value(text, value_at, cut.items.get(key), edits)
        is_null = text.startswith("null", value_at)
        if key in cut.drop and not is_null:
            dropped_from = start if dropped_from is None else dropped_from
        else:
            if dropped_from is not None:
                edits.append((dropped_from, start, ""))
                dropped_from = None
            if key in cut.blank and not is_null:
                edits.append((value_at, end, "null"))
            kept_end = end
        at = _after_space(text, end)
        if _expect(text, at, ",}") == ",":
            at = _after_space(text, at + 1)
            _expect(text, at, '"')
        elif dropped_from is not None:
            # The comma before the first of the dropped members has to go as well.
            edits.append((dropped_from if kept_end is None else kept_end, end, ""))
    return at + 1


def _cut_value(text: str, at: int, cut: Cut | None, edits: list[_Edit]) -> int:
    """Collect the edits of an array of objects, or skip any other value; return its end."""
    if cut is None or text[at] != "[":
        return _read_value(text, at)[1]
    at = _after_space(text, at + 1)
    while text[at] != "]":
        at = _cut_object(text, at, cut, edits) if text[at] == "{" else _read_value(text, at)[1]
        at = _after_space(text, at)
        if _expect(text, at, ",]") == ",":
            at = _after_space(text, at + 1)
    return at + 1


def write_json(value: Any) -> bytes:
    """Return a value as compact JSON in UTF-8."""
    return orjson.dumps(value)
