"""Why a later prompt shows a sampled answer in other tokens: told from texts and messages.

Pure functions; used for reports only, never for building rows.
"""

import json
from typing import Any

from agentlightning.adapter.token_row import ForkCause
from agentlightning.types.call import CallChoice, CallRecord

__all__ = ["drift_cause", "has_other_tools", "messages_of"]

_THINK_END = "</think>"


def drift_cause(answer: str, shown: str, *, choice: CallChoice, call: CallRecord) -> ForkCause:
    """Name the difference between an answer and what stands in its place later.

    Args:
        answer: The sampled tokens as text, special tokens included.
        shown: The later prompt from where the answer begins, long enough to hold it.
        choice: The answer.
        call: The later call.
    """
    if shown.startswith(answer):
        return ForkCause.RETOKEN
    if _squeezed(shown).startswith(_squeezed(answer)):
        return ForkCause.WHITESPACE
    if _squeezed(_canonical(shown)).startswith(_squeezed(_canonical(answer))):
        return ForkCause.TOOL_JSON
    if choice.finish_reason == "length":
        return ForkCause.TRUNCATED
    messages = messages_of(call)
    if choice.message is None or not messages:
        return ForkCause.TEMPLATE
    said = _said(choice.message)
    is_echoed = any(_said(m) == said for m in messages if m.get("role") == "assistant")
    return ForkCause.TEMPLATE if is_echoed else ForkCause.EDITED


def has_other_tools(earlier: CallRecord, later: CallRecord) -> bool:
    """Tell whether one agent's tools changed: its first message is the same, they are not."""
    before, after = messages_of(earlier), messages_of(later)
    return before[:1] == after[:1] and _tools(earlier) != _tools(later)


def messages_of(call: CallRecord) -> list[dict[str, Any]]:
    """Return the messages of a call in the shape of chat completions, if it has any."""
    messages: Any = (call.chat_request or call.request).get("messages")
    found: list[Any] = messages if isinstance(messages, list) else []
    return [message for message in found if isinstance(message, dict)]


def _tools(call: CallRecord) -> Any:
    return (call.chat_request or call.request).get("tools") or []


def _said(message: dict[str, Any]) -> tuple[str, str]:
    """Return what a message says: its text without reasoning and blanks, its calls as values."""
    content: Any = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content)
    calls: Any = message.get("tool_calls") or []
    functions = [call.get("function") or {} for call in calls if isinstance(call, dict)]
    named = [f"{f.get('name')} {_canonical(str(f.get('arguments')))}" for f in functions]
    return _squeezed(str(content).rpartition(_THINK_END)[2]), "\n".join(named)


def _number(text: str) -> float:
    """Read 2.0 as 2, which is how other languages write it."""
    value = float(text)
    return int(value) if value.is_integer() else value


_DECODER = json.JSONDecoder(parse_float=_number)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _canonical(text: str) -> str:
    """Write each JSON object in a text in one way."""
    parts: list[str] = []
    at = 0
    while (found := text.find("{", at)) >= 0:
        parts.append(text[at:found])
        try:
            value, at = _DECODER.raw_decode(text, found)
            parts.append(json.dumps(value, sort_keys=True))
        except ValueError:
            parts.append("{")
            at = found + 1
    return "".join([*parts, text[at:]])
