"""`tool_choice` of a request: which tools a model may call, and whether it has to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentlightning.engine.request_fields import read_member
from agentlightning.errors import RequestError

__all__ = ["ToolChoice", "read_tool_choice"]

Tool = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """What a request says of tools."""

    tools: tuple[Tool, ...] = ()
    """What the model is shown."""
    finds_calls: bool = False
    """False under `none`: tools are shown, calls are not looked for."""
    is_forced: bool = False
    """The answer must be a call."""
    name: str | None = None
    """Of the tool that must be called, where there is but one choice."""
    said: Any = None
    """As the client wrote it, for templates that say it to the model."""

    @property
    def only_named(self) -> tuple[Tool, ...]:
        """Return the tool that must be called, where one is named, else all tools."""
        named = tuple(tool for tool in self.tools if _name(tool) == self.name)
        return named or self.tools


def read_tool_choice(body: Mapping[str, Any], tools: tuple[Tool, ...]) -> ToolChoice:
    """Return what a request says of its tools.

    `auto`, `none`, `required`, a function by name, or `allowed_tools`, which shows the model only
    some of the tools.

    Raises:
        RequestError: It says something else, or names a tool that is not there.
    """
    said: Any = body.get("tool_choice")
    match said:
        case None | "auto":
            return ToolChoice(tools=tools, finds_calls=bool(tools), said=said)
        case "none":
            return ToolChoice(tools=tools, said=said)
        case "required":
            return _forced(tools, said)
        case {"type": "function", "function": {"name": str(name)}}:
            (_,) = _pick(tools, [name])
            return ToolChoice(tools=tools, finds_calls=True, is_forced=True, name=name, said=said)
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode}}:
            allowed = _allowed(said["allowed_tools"], tools)
            if mode == "required":
                return _forced(allowed, mode)
            return ToolChoice(tools=allowed, finds_calls=True, said=mode)
        case _:
            raise _refused("must be auto, none, required, a function by name, or allowed_tools")


def _forced(tools: tuple[Tool, ...], said: Any) -> ToolChoice:
    if not tools:
        raise _refused("asks for a call, so tools must hold at least one tool")
    name = _name(tools[0]) if len(tools) == 1 else None
    return ToolChoice(tools=tools, finds_calls=True, is_forced=True, name=name, said=said)


def _allowed(members: Mapping[str, Any], tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    entries: Sequence[Any] = read_member(members, "tools", list, [])
    names = [_name(entry) for entry in entries]
    if not names or None in names:
        raise _refused("of type allowed_tools needs tools of type function, each with a name")
    return _pick(tools, names)


def _pick(tools: tuple[Tool, ...], names: Sequence[str | None]) -> tuple[Tool, ...]:
    """Return the named tools, in the order in which they were given."""
    missing = set(names) - {_name(tool) for tool in tools}
    if missing:
        raise _refused(f"names {sorted(map(str, missing))}, which tools does not hold")
    picked = {_name(tool): tool for tool in tools if _name(tool) in names}
    return tuple(picked.values())


def _name(tool: Any) -> str | None:
    function: Any = tool.get("function") if isinstance(tool, Mapping) else None
    name: Any = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None


def _refused(what: str) -> RequestError:
    return RequestError(f"tool_choice {what}", param="tool_choice")
