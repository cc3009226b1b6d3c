"""The messages of an Anthropic request as the messages of chat completions.

Nothing is lost on the way: what chat completions cannot say is refused. `cache_control` is left
out, because it changes no answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from agentlightning.gateway.dialects.chat_parts import assistant_message
from agentlightning.gateway.dialects.request_check import (
    Members,
    Neutral,
    check_members,
    one_or_many,
    read_object,
    read_text,
    refuse,
)

__all__ = ["INVALID_JSON", "to_chat_messages"]

INVALID_JSON = "INVALID_JSON"
"""The member of a tool's input that stands for arguments which are no JSON object; its value is the
arguments as the model wrote them, and other members are null. Anthropic's guide to tool streaming
uses the same name."""

Block = tuple[str, Members]
"""Where a block stands in the request, and the block."""

_MEMBERS = {
    "text": {"text"},
    "image": {"source"},
    "document": {"source", "title", "context"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
    "tool_use": {"id", "name", "input"},
    "tool_result": {"tool_use_id", "content", "is_error"},
}
_NEUTRAL: Neutral = {
    "citations": ([], {"enabled": False}),
    "caller": ({"type": "direct"},),
    "transformations": ({},),
}
"""Members that may stand in a block with a value that asks for nothing."""

_BILLING = "x-anthropic-billing-header:"
"""Begins a system block that Anthropic's own clients send and its API does not show to the model;
it differs from call to call, so that no prompt would be the beginning of the next one."""


def to_chat_messages(system: Any, messages: Any) -> list[Members]:
    """Return a request's system prompt and messages in the shape of chat completions.

    Consecutive messages of one role are one turn, as Anthropic defines it. Of a user's turn the
    tool results come first, since they answer the assistant's message before it; the rest
    follows in its order. An assistant's texts, and its thoughts, are joined without a separator.

    Raises:
        RequestError: Something in them has no counterpart in chat completions.
    """
    chat: list[Members] = []
    if system is not None:
        blocks = [block for block in _blocks("system", system) if not _is_billing(block)]
        chat += _system(blocks)
    role = ""
    for role, blocks in _turns(messages):
        chat += _TURNS[role](blocks)
    if role == "assistant":
        refuse(
            "messages",
            "the model cannot continue an assistant's message. End the conversation with a user's",
        )
    return chat


def _turns(messages: Any) -> Iterator[tuple[str, list[Block]]]:
    """Yield roles and blocks, messages of one role in a row as one."""
    if not isinstance(messages, list) or not messages:
        refuse("messages", "must be a list with at least one message")
    last, blocks = "", list[Block]()
    for at, message in enumerate(cast("list[Any]", messages)):
        where = f"messages.{at}"
        members = read_object(where, message)
        role = members.get("role")
        if role not in _TURNS:
            refuse(f"{where}.role", f"must be one of {', '.join(_TURNS)}")
        check_members(where, members, {"role", "content"}, {})
        if last and role != last:
            yield last, blocks
            blocks = []
        last = role
        blocks += _blocks(f"{where}.content", members.get("content"))
    yield last, blocks


def _blocks(where: str, content: Any) -> list[Block]:
    """Return content as its blocks, of known types and with known members."""
    if isinstance(content, str):
        return [(where, {"type": "text", "text": content})]
    if not isinstance(content, list):
        refuse(where, "must be a text or a list of blocks")
    blocks: list[Block] = []
    for at, block in enumerate(cast("list[Any]", content)):
        place = f"{where}.{at}"
        kind = cast("Members", block).get("type") if isinstance(block, dict) else None
        if kind not in _MEMBERS:
            refuse(place, f"a block of type {kind!r} cannot be given to a model of this kind")
        check_members(place, block, _MEMBERS[kind], _NEUTRAL)
        blocks.append((place, block))
    return blocks


def _is_billing(block: Block) -> bool:
    text = block[1].get("text")
    return isinstance(text, str) and text.startswith(_BILLING)


def _system(blocks: list[Block]) -> list[Members]:
    parts = [_text_part(*block) for block in blocks]
    return [{"role": "system", "content": one_or_many(parts)}] if parts else []


def _user(blocks: list[Block]) -> list[Members]:
    results: list[Members] = []
    parts: list[Members] = []
    for where, block in blocks:
        if block["type"] == "tool_result":
            results.append(_tool_message(where, block))
        else:
            parts += _parts(where, block)
    said = [{"role": "user", "content": one_or_many(parts)}] if parts or not results else []
    return [*results, *said]


def _assistant(blocks: list[Block]) -> list[Members]:
    texts: list[str] = []
    thoughts: list[str] = []
    hidden: list[Members] = []
    calls: list[Members] = []
    for where, block in blocks:
        match block["type"]:
            case "text":
                texts.append(read_text(where, block, "text"))
            case "thinking":
                thoughts.append(read_text(where, block, "thinking"))
            case "redacted_thinking":
                # The way in which other gateways carry thoughts that only their author can read.
                data = read_text(where, block, "data")
                hidden.append({"type": "reasoning.encrypted", "data": data})
            case "tool_use":
                calls.append(_call(where, block))
            case kind:
                refuse(where, f"an assistant's message cannot hold a block of type {kind!r}")
    return [assistant_message(texts, thoughts, calls, reasoning_details=hidden)]


_TURNS = {"user": _user, "assistant": _assistant, "system": _system}


def _call(where: str, block: Members) -> Members:
    members = read_object(f"{where}.input", block.get("input"))
    raw = members.get(INVALID_JSON)
    if any(value is not None for key, value in members.items() if key != INVALID_JSON):
        raw = None
    arguments = raw if isinstance(raw, str) else json.dumps(members, ensure_ascii=False)
    function = {"name": read_text(where, block, "name"), "arguments": arguments}
    return {"id": read_text(where, block, "id"), "type": "function", "function": function}


def _tool_message(where: str, block: Members) -> Members:
    content = block.get("content")
    inner = [] if content is None else _blocks(f"{where}.content", content)
    parts = [part for place, one in inner for part in _parts(place, one)]
    said = one_or_many(parts)
    if block.get("is_error"):
        # Chat completions have no member for it, and the model has to know.
        if isinstance(said, str):
            said = f"Error: {said}"
        else:
            said = [{"type": "text", "text": "Error:"}, *said]
    call_id = read_text(where, block, "tool_use_id")
    return {"role": "tool", "tool_call_id": call_id, "content": said}


def _parts(where: str, block: Members) -> list[Members]:
    match block["type"]:
        case "text":
            return [_text_part(where, block)]
        case "image":
            return [_image_part(where, block)]
        case "document":
            return _document_parts(where, block)
        case kind:
            return refuse(where, f"a block of type {kind!r} cannot stand here")


def _text_part(where: str, block: Members) -> Members:
    if block["type"] != "text":
        refuse(where, "must be a block of type 'text'")
    return {"type": "text", "text": read_text(where, block, "text")}


def _image_part(where: str, block: Members) -> Members:
    source = _source(where, block)
    match source.get("type"):
        case "base64":
            url = _data_url(where, source)
        case "url":
            url = read_text(f"{where}.source", source, "url")
        case kind:
            refuse(f"{where}.source", f"an image from {kind!r} cannot be had here. Send base64")
    return {"type": "image_url", "image_url": {"url": url}}


def _document_parts(where: str, block: Members) -> list[Members]:
    source = _source(where, block)
    heads = [read_text(where, block, key) for key in ("title", "context") if block.get(key)]
    before = [{"type": "text", "text": head} for head in heads]
    place = f"{where}.source"
    match source.get("type"):
        case "text":
            return [*before, {"type": "text", "text": read_text(place, source, "data")}]
        case "base64":
            name = str(block.get("title") or "document.pdf")
            file = {"filename": name, "file_data": _data_url(where, source)}
            return [*before, {"type": "file", "file": file}]
        case "content":
            inner = _blocks(f"{place}.content", source.get("content"))
            return [*before, *(part for at, one in inner for part in _parts(at, one))]
        case kind:
            hint = "cannot be had here. Send text or base64"
            return refuse(place, f"a document from {kind!r} {hint}")


def _source(where: str, block: Members) -> Members:
    return read_object(f"{where}.source", block.get("source"))


def _data_url(where: str, source: Members) -> str:
    place = f"{where}.source"
    return (
        f"data:{read_text(place, source, 'media_type')};base64,{read_text(place, source, 'data')}"
    )
