"""Requests of other formats as requests for chat completions: what all of them have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentlightning.gateway.dialects.request_check import (
    Members,
    Neutral,
    check_members,
    read_list,
    read_object,
)

__all__ = ["SAMPLING", "Parameters", "let_think", "tools_of"]

SAMPLING = frozenset(
    {
        "model",
        "temperature",
        "top_p",
        # Known to model servers by these names, whatever the format; clients send them as extras.
        "top_k",
        "seed",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "logit_bias",
        "stop_token_ids",
        "ignore_eos",
        "chat_template_kwargs",
    }
)
"""Parameters that mean the same in chat completions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """How the parameters of a format are said in chat completions."""

    same: frozenset[str]
    """Those that have the same name and meaning."""
    converters: Mapping[str, Callable[[Any], Members]]
    """By name, what returns the parameters of chat completions for a value."""
    others: frozenset[str]
    """Those that change no answer, or are dealt with elsewhere."""
    neutral: Neutral
    """Values by which further parameters ask for nothing."""

    def convert(self, request: Members, messages: list[Members]) -> Members:
        """Return a request for chat completions.

        Args:
            request: In the client's format.
            messages: Its messages, in chat's.

        Raises:
            RequestError: It asks for something that chat completions cannot do.
        """
        chat: Members = {key: value for key, value in request.items() if key in self.same}
        chat["messages"] = messages
        if request.get("stream"):
            chat["stream"] = True
            chat["stream_options"] = {"include_usage": True}
        for key, convert in self.converters.items():
            if request.get(key) is not None:
                chat.update(convert(request[key]))
        known = self.same | self.others | set(self.converters) | {"stream"}
        check_members("", request, known, self.neutral)
        return chat


def tools_of(tools: Any, describe: Callable[[str, Members], Members]) -> Members:
    """Return tools as chat completions have them.

    Args:
        tools: A request's list of them.
        describe: Returns the function that a tool is; given its place in the request, too.

    Raises:
        RequestError: It is no list of objects, or holds a tool that is no function.
    """
    said: list[Members] = []
    for at, tool in enumerate(read_list("tools", tools)):
        where = f"tools.{at}"
        said.append({"type": "function", "function": describe(where, read_object(where, tool))})
    return {"tools": said} if said else {}


def let_think(chat: Members, thinks: bool) -> None:
    """Tell a trained model's template whether to think, unless the client told it itself."""
    kwargs: Members = chat.get("chat_template_kwargs") or {}
    chat["chat_template_kwargs"] = {"enable_thinking": thinks, **kwargs}
