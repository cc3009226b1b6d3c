"""Reading requests that are to be translated: nothing that could change an answer is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, cast

from agentlightning.errors import RequestError

__all__ = [
    "Members",
    "Neutral",
    "check_members",
    "effort_of",
    "one_or_many",
    "read_list",
    "read_object",
    "read_text",
    "refuse",
]

Members = dict[str, Any]
Neutral = Mapping[str, tuple[Any, ...]]
"""By member, the values that ask for nothing."""

_EVERYWHERE = frozenset({"type", "cache_control", "prompt_cache_breakpoint"})
"""Members of any object: its kind, and what changes the price of an answer but not the answer."""

_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""What chat servers know of the levels of effort."""


def refuse(where: str, message: str, *, code: str | None = None) -> NoReturn:
    """Raise what a client did wrong, and where."""
    raise RequestError(f"{where}: {message}.", param=where, error_code=code)


def check_members(
    where: str, value: Members, known: set[str] | frozenset[str], neutral: Neutral
) -> None:
    """Refuse members that ask for something which nobody here can do.

    Args:
        where: The object's place in the request.
        value: The object.
        known: Members that are dealt with; its type and hints for caches always may be there.
        neutral: Values by which further members ask for nothing; null always does.

    Raises:
        RequestError: There is such a member.
    """
    for key, member in value.items():
        if key in known or key in _EVERYWHERE or member is None:
            continue
        if member not in neutral.get(key, ()):
            refuse(f"{where}.{key}" if where else key, "is not supported here. Leave it out")


def read_object(where: str, value: Any) -> Members:
    """Return an object.

    Raises:
        RequestError: It is something else.
    """
    if not isinstance(value, dict):
        refuse(where, "must be an object")
    return cast("Members", value)


def read_list(where: str, value: Any) -> list[Any]:
    """Return a list.

    Raises:
        RequestError: It is something else.
    """
    if not isinstance(value, list):
        refuse(where, "must be a list")
    return cast("list[Any]", value)


def read_text(where: str, members: Members, key: str) -> str:
    """Return a member that is a text.

    Raises:
        RequestError: It is something else, or not there.
    """
    value = members.get(key)
    if not isinstance(value, str):
        refuse(f"{where}.{key}" if where else key, "must be a text")
    return value


def one_or_many(parts: list[Members]) -> str | list[Members]:
    """Return parts as content; a single text stands for itself, however it was written."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts


def effort_of(where: str, level: Any) -> str:
    """Return a level of effort as chat servers name it.

    Raises:
        RequestError: It is no level.
    """
    if not isinstance(level, str) or level not in _EFFORTS:
        refuse(where, f"must be one of {', '.join(_EFFORTS)}")
    return _EFFORTS[level]
