"""What chat messages hold: parts of any library's making, put into the shape of OpenAI's chat API.

Pure and total: a part of unknown kind becomes a text part that holds it as JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from agentlightning.adapter.attribute_values import as_mapping

__all__ = ["ITEM_KINDS", "Content", "Members", "read_content", "text_of"]

Members = dict[str, Any]

_TEXT_KINDS = frozenset({"text", "input_text", "output_text", "summary_text", "reasoning_text"})
_REASONING_KINDS = frozenset({"thinking", "reasoning", "reasoning_content"})
_CALL_KINDS = frozenset({"tool_use", "server_tool_use", "tool_call", "function_call"})
_RESULT_KINDS = frozenset({"tool_result", "tool_call_response", "function_call_output"})
ITEM_KINDS = frozenset({"function_call", "function_call_output", "reasoning"})
"""Kinds that stand among messages as items of their own, as in the API of responses."""
_CALL_IDS = ("id", "call_id", "tool_use_id", "tool_call_id")
_DETAILS = frozenset({"auto", "low", "high"})
_AUDIO_FORMATS = frozenset({"wav", "mp3"})
_FILE_MEMBERS = ("file_data", "file_id", "filename")


@dataclass(slots=True)
class Content:
    """What one message said, by kind."""

    parts: list[Members] = field(default_factory=list[Members])
    """Texts, images, audio and files, as OpenAI's user messages hold them."""
    calls: list[Members] = field(default_factory=list[Members])
    """Tool calls as `id`, `name` and `arguments`, each of which may be missing."""
    results: list[Members] = field(default_factory=list[Members])
    """Tool results as `id` and `content`."""
    reasoning: list[str] = field(default_factory=list[str])
    refusal: str | None = None
    is_text: bool = False
    """Whether it was one plain text, which is then the only part."""


def read_content(content: Any) -> Content:
    """Return what a message's content holds.

    It may be a text, a list of parts as OpenAI, Anthropic or the GenAI conventions write them,
    such a list as JSON text, or anything else, which is kept as JSON.
    """
    found = Content()
    if content is None:
        return found
    items = _listed(content)
    if items is None:
        found.is_text = True
        found.parts.append(_text(content if isinstance(content, str) else _json(content)))
        return found
    for item in items:
        _take(found, item)
    return found


def text_of(content: Any) -> str:
    """Return any content as one text; what is no text is written as JSON."""
    found = read_content(content)
    texts = [part["text"] if part["type"] == "text" else _json(part) for part in found.parts]
    return "\n".join([*found.reasoning, *texts, *map(_json, [*found.calls, *found.results])])


def _listed(content: Any) -> list[Any] | None:
    """Return the parts of content that is a list of parts, or such a list as JSON."""
    if isinstance(content, str) and content.lstrip().startswith("[{"):
        try:
            content = json.loads(content)
        except (ValueError, RecursionError):
            return None
        return cast("list[Any]", content) if _is_parts(content) else None
    if isinstance(content, dict) and _is_parts([content]):
        return [cast("Any", content)]
    return cast("list[Any]", content) if _is_parts(content) else None


def _is_parts(value: Any) -> bool:
    items = cast("Sequence[Any]", value) if isinstance(value, list) else ()
    return bool(items) and all(
        isinstance(item, str) or isinstance(as_mapping(item).get("type"), str) for item in items
    )


def _take(found: Content, item: Any) -> None:
    part = as_mapping(item)
    kind = part.get("type")
    if isinstance(item, str):
        found.parts.append(_text(item))
    elif kind in _TEXT_KINDS:
        text = part.get("text", part.get("content"))
        found.parts.append(_text(text if isinstance(text, str) else _json(text)))
    elif kind in _REASONING_KINDS:
        found.reasoning.append(_reasoning(part))
    elif kind in _CALL_KINDS:
        found.calls.append(_call(part))
    elif kind in _RESULT_KINDS:
        found.results.append(_result(part))
    elif kind == "refusal" and isinstance(part.get("refusal"), str):
        found.refusal = (found.refusal or "") + part["refusal"]
    else:
        found.parts.append(_media(part) or _text(_json(item)))


def _call(part: Members) -> Members:
    function = as_mapping(part.get("function")) or part
    arguments = function.get("arguments", function.get("input"))
    return {"id": _call_id(part), "name": function.get("name"), "arguments": arguments}


def _result(part: Members) -> Members:
    for key in ("content", "output", "response", "result"):
        if part.get(key) is not None:
            return {"id": _call_id(part, reverse=True), "content": part[key]}
    return {"id": _call_id(part, reverse=True), "content": ""}


def _call_id(part: Members, *, reverse: bool = False) -> Any:
    """Return the id that ties call and result; items of `responses` have one of their own too."""
    keys = reversed(_CALL_IDS) if reverse or part.get("type") == "function_call" else _CALL_IDS
    order = ("call_id", *keys) if part.get("type") == "function_call" else tuple(keys)
    return next((part[key] for key in order if isinstance(part.get(key), str)), None)


def _reasoning(part: Members) -> str:
    for key in ("thinking", "content", "text", "reasoning", "summary"):
        value = part.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list) and value:
            return text_of(value)
    return ""


def _media(part: Members) -> Members | None:
    """Return an image, sound or file as OpenAI's user messages hold it, or None."""
    match part.get("type"):
        case "image_url" | "input_image" | "image":
            return _image(part)
        case "input_audio":
            audio = as_mapping(part.get("input_audio"))
            if isinstance(audio.get("data"), str) and audio.get("format") in _AUDIO_FORMATS:
                kept = {"data": audio["data"], "format": audio["format"]}
                return {"type": "input_audio", "input_audio": kept}
        case "file" | "input_file":
            given = as_mapping(part.get("file")) or part
            kept = {key: given[key] for key in _FILE_MEMBERS if isinstance(given.get(key), str)}
            if kept:
                return {"type": "file", "file": kept}
        case _:
            pass
    return None


def _image(part: Members) -> Members | None:
    image, source = part.get("image_url"), as_mapping(part.get("source"))
    url = image if isinstance(image, str) else as_mapping(image).get("url")
    if url is None and source.get("type") == "base64":
        url = f"data:{source.get('media_type')};base64,{source.get('data')}"
    url = source.get("url") if url is None else url
    if not isinstance(url, str):
        return None
    detail = as_mapping(image).get("detail", part.get("detail"))
    kept = {"url": url, "detail": detail} if detail in _DETAILS else {"url": url}
    return {"type": "image_url", "image_url": kept}


def _text(text: str) -> Members:
    return {"type": "text", "text": text}


def _json(value: Any) -> str:
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
