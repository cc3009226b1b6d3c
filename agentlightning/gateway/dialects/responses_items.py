"""The items of a Responses request as the messages of chat completions, and answers likewise.

Nothing is lost on the way: what chat completions cannot say is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, cast

from agentlightning.gateway.dialects.chat_parts import assistant_message
from agentlightning.gateway.dialects.request_check import (
    Members,
    Neutral,
    check_members,
    one_or_many,
    read_list,
    read_object,
    read_text,
    refuse,
)

__all__ = [
    "Item",
    "Lookup",
    "answer_message",
    "open_thought",
    "read_items",
    "referred",
    "seal_thought",
    "to_chat_messages",
]

Item = tuple[str, Members]
"""Where an item stands in the request, and the item."""
Lookup = Callable[[str], "Members | None"]
"""Returns the remembered item of an id."""

_ITEM_MEMBERS = {
    "message": {"role", "content", "id", "status", "phase"},
    "reasoning": {"id", "summary", "content", "encrypted_content", "status"},
    "function_call": {"id", "call_id", "name", "arguments", "parsed_arguments", "status"},
    "function_call_output": {"id", "call_id", "name", "output", "status"},
}
_ITEM_NEUTRAL: Neutral = {"caller": ({"type": "direct"},), "async": (False,)}
_PART_MEMBERS = {
    "input_text": {"text"},
    "output_text": {"text", "annotations", "logprobs", "parsed"},
    "refusal": {"refusal"},
    "input_image": {"image_url", "detail"},
    "input_file": {"file_data", "filename"},
    "input_audio": {"input_audio"},
}
_OF_ASSISTANT = frozenset({"reasoning", "function_call"})
_SEAL = "agl."
"""Begins the encrypted thoughts that are ours; other servers' are carried unread."""


def read_items(given: Any, lookup: Lookup) -> list[Item]:
    """Return a request's input as its items, references resolved.

    Raises:
        RequestError: It holds something that chat completions have no word for.
    """
    if isinstance(given, str):
        return [("input", {"type": "message", "role": "user", "content": given})]
    items = enumerate(read_list("input", given))
    return [
        _read_item(f"input.{at}", read_object(f"input.{at}", item), lookup) for at, item in items
    ]


def referred(request: Members) -> list[str]:
    """Return the ids that a request refers to items by."""
    given = request.get("input")
    items = cast("list[Any]", given) if isinstance(given, list) else []
    known = [cast("Members", item) for item in items if isinstance(item, dict)]
    names = [item.get("id") for item in known if _kind_of(item) == "item_reference"]
    return [name for name in names if isinstance(name, str)]


def _kind_of(item: Members) -> str:
    return str(item.get("type") or ("message" if "role" in item else "item_reference"))


def _read_item(where: str, item: Members, lookup: Lookup) -> Item:
    kind = _kind_of(item)
    if kind == "item_reference":
        name = read_text(where, item, "id")
        found = lookup(name)
        if found is None:
            refuse(where, f"no item {name!r} is remembered here. Send the item itself")
        return where, found
    if kind not in _ITEM_MEMBERS:
        refuse(where, f"an item of type {kind!r} cannot be given to a model of this kind")
    check_members(where, item, _ITEM_MEMBERS[kind], _ITEM_NEUTRAL)
    _CHECKS[kind](where, item)
    return where, {**item, "type": kind}


def to_chat_messages(instructions: str | None, items: Sequence[Item]) -> list[Members]:
    """Return instructions and items in the shape of chat completions.

    What an assistant thought, said and called in a row is one message. Developers' messages are
    the system's, since templates of open models know no other, and those in a row are one.

    Raises:
        RequestError: There is nothing in them.
    """
    chat: list[Members] = []
    turn: list[Members] = []
    if instructions:
        items = [("instructions", {"role": "system", "content": instructions}), *items]
    for where, item in items:
        if item.get("type") in _OF_ASSISTANT or item.get("role") == "assistant":
            turn.append(item)
            continue
        if turn:
            chat.append(answer_message(turn))
            turn = []
        if item.get("type") == "function_call_output":
            content = one_or_many(_parts(f"{where}.output", item["output"]))
            chat.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
        else:
            _add_message(chat, where, item)
    if turn:
        chat.append(answer_message(turn))
    if not chat:
        refuse("input", "must hold a text or an item")
    return chat


def answer_message(items: Sequence[Members]) -> Members:
    """Return a turn of the assistant as one chat message.

    Items that chat completions have no word for are kept in `other_items`; a request cannot hold
    any.
    """
    texts: list[str] = []
    refusals: list[str] = []
    thoughts: list[str] = []
    hidden: list[Members] = []
    calls: list[Members] = []
    others: list[Members] = []
    for item in items:
        match item.get("type"):
            case "reasoning":
                thought, closed = _thought(item)
                thoughts += [thought] if thought else []
                # The way in which other gateways carry thoughts that only their author reads.
                hidden += [{"type": "reasoning.encrypted", "data": closed}] if closed else []
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments") or ""}
                call = {"id": item.get("call_id"), "type": "function", "function": function}
                calls.append(call)
            case None | "message":
                for part in _content_of(item):
                    text, refusal = part.get("text"), part.get("refusal")
                    texts += [text] if text is not None else []
                    refusals += [refusal] if refusal is not None else []
            case _:
                others.append(item)
    more = {"refusal": "".join(refusals), "reasoning_details": hidden, "other_items": others}
    return assistant_message(texts, thoughts, calls, **more)


def seal_thought(text: str) -> str:
    """Return thoughts for `encrypted_content`, for clients that give nothing else back."""
    return _SEAL + base64.urlsafe_b64encode(text.encode()).decode()


def open_thought(sealed: str) -> str | None:
    """Return what `seal_thought` was given, or None for what it did not make."""
    if not sealed.startswith(_SEAL):
        return None
    try:
        return base64.urlsafe_b64decode(sealed.removeprefix(_SEAL)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _thought(item: Members) -> tuple[str, str | None]:
    """Return the thoughts of an item, and those that are closed to us."""
    sealed = item.get("encrypted_content")
    opened = open_thought(sealed) if sealed else None
    closed = sealed if opened is None else None
    told = cast("list[Members]", item.get("content") or [])
    if not told and opened is not None:
        return opened, None
    parts = told or cast("list[Members]", item.get("summary") or [])
    return "".join(part.get("text") or "" for part in parts), closed


def _content_of(item: Members) -> list[Members]:
    content = item.get("content") or []
    return [{"text": content}] if isinstance(content, str) else content


def _add_message(chat: list[Members], where: str, item: Members) -> None:
    parts = _parts(f"{where}.content", item["content"])
    if item["role"] == "user":
        chat.append({"role": "user", "content": one_or_many(parts)})
        return
    if any(part["type"] != "text" for part in parts):
        refuse(f"{where}.content", "must be text")
    if chat and chat[-1]["role"] == "system":
        before = chat.pop()["content"]
        parts = [
            *([{"type": "text", "text": before}] if isinstance(before, str) else before),
            *parts,
        ]
    chat.append({"role": "system", "content": one_or_many(parts)})


def _parts(where: str, content: Any) -> list[Members]:
    """Return what a user, a developer or a tool said as parts of chat completions."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_part(place, part) for place, part in _checked_parts(where, content)]


def _part(where: str, part: Members) -> Members:
    kind = part.get("type")
    if kind in {"input_text", "output_text"}:
        return {"type": "text", "text": read_text(where, part, "text")}
    if kind == "input_image":
        image = {"url": read_text(where, part, "image_url")}
        if part.get("detail") not in (None, "auto"):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    if kind != "input_file":
        refuse(where, f"a part of type {kind!r} cannot stand here")
    name = {"filename": part["filename"]} if part.get("filename") else {}
    return {"type": "file", "file": {**name, "file_data": read_text(where, part, "file_data")}}


def _checked_parts(where: str, content: Any) -> list[Item]:
    """Return parts of known types and with known members."""
    parts: list[Item] = []
    for at, part in enumerate(read_list(where, content)):
        place = f"{where}.{at}"
        kind = str(read_object(place, part).get("type"))
        if kind not in _PART_MEMBERS:
            refuse(place, f"a part of type {kind!r} cannot be given to a model of this kind")
        check_members(place, part, _PART_MEMBERS[kind], {"detail": ("auto",)})
        parts.append((place, part))
    return parts


def _check_message(where: str, item: Members) -> None:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        refuse(f"{where}.role", "must be one of user, assistant, system, developer")
    content = item.get("content")
    if isinstance(content, str):
        return
    parts = _checked_parts(f"{where}.content", content)
    if role == "assistant":
        for place, part in parts:
            key = "refusal" if part["type"] == "refusal" else "text"
            read_text(place, part, key)


def _check_reasoning(where: str, item: Members) -> None:
    for key in ("content", "summary"):
        for at, part in enumerate(read_list(f"{where}.{key}", item.get(key) or [])):
            place = f"{where}.{key}.{at}"
            read_text(place, read_object(place, part), "text")
    if item.get("encrypted_content") is not None:
        read_text(where, item, "encrypted_content")


def _check_call(where: str, item: Members) -> None:
    for key in ("call_id", "name", "arguments"):
        read_text(where, item, key)


def _check_output(where: str, item: Members) -> None:
    read_text(where, item, "call_id")
    _parts(f"{where}.output", item.get("output"))


_CHECKS: dict[str, Callable[[str, Members], None]] = {
    "message": _check_message,
    "reasoning": _check_reasoning,
    "function_call": _check_call,
    "function_call_output": _check_output,
}
