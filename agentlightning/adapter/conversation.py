"""Conversations: which calls went on where another had stopped. Pure functions."""

import hashlib
import json
from collections.abc import Iterator, Sequence

from agentlightning.adapter.chat_call import ChatCall
from agentlightning.adapter.content import Members

__all__ = ["continued_calls", "last_calls"]


def last_calls(calls: Sequence[ChatCall]) -> list[ChatCall]:
    """Return the calls that no other call goes on from, in their order.

    A call goes on from another when its prompt begins with the other's prompt and answer, with
    the same tools. Calls with equal transcripts are all kept: each was sampled. Where a call had
    several choices and one was gone on from, the agent turned the others down, and they are left
    out; where none was, all are kept.
    """
    earlier = (call for found in continued_calls(calls).values() for call in found)
    settled = {_question(call) for call in earlier}
    return [call for call in calls if _question(call) not in settled]


def continued_calls(calls: Sequence[ChatCall]) -> dict[int, list[ChatCall]]:
    """Return, for each call by its place, the calls that it goes on from."""
    ends: dict[str, list[ChatCall]] = {}
    for call in calls:
        *_, whole = _digests(call)
        ends.setdefault(whole, []).append(call)
    found: dict[int, list[ChatCall]] = {}
    for place, call in enumerate(calls):
        prefixes = list(_digests(call))[:-1]
        found[place] = [earlier for prefix in prefixes for earlier in ends.get(prefix, ())]
    return found


def _question(call: ChatCall) -> tuple[str, str]:
    """Return what the choices of one call share, and its other prompts' choices do not."""
    *prefixes, _ = _digests(call)
    return call.span_id, prefixes[-1] if prefixes else ""


def _digests(call: ChatCall) -> Iterator[str]:
    """Yield one digest for each beginning of a transcript, the whole of it last."""
    running = hashlib.sha256(json.dumps(call.tools, sort_keys=True).encode())
    for message in call.messages:
        running.update(b"\0" + json.dumps(_said(message), sort_keys=True).encode())
        yield running.hexdigest()


def _said(message: Members) -> Members:
    """Return what counts when messages are compared: not what servers and clients add."""
    kept = {key: value for key, value in message.items() if key != "reasoning_content"}
    kept["content"] = kept.get("content") or ""
    return kept
