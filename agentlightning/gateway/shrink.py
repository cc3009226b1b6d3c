"""Asking for a shorter answer where a longer one does not fit."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

from agentlightning.errors import ContextLengthError
from agentlightning.gateway.dialects.translated import read_error
from agentlightning.gateway.failure import code_of_answer
from agentlightning.gateway.jsontext import parse_json, write_json
from agentlightning.gateway.upstream import Upstream, UpstreamRequest, UpstreamResponse

__all__ = ["room_for_answer", "send_shrunk", "with_limit"]

_LIMITS: Final = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}
"""Members that say how long an answer may be; the first is for requests that have none."""
_COMPLETIONS_DEFAULT: Final = 16
"""Longest answer of a completions request that does not say."""

_REFUSALS: Final = frozenset({400, 413, 422})

# How servers say what the context holds and what the prompt takes of it, in their words of 2026.
_context = re.compile(
    r"(?:context (?:length|window|size)(?: is| of| only|:)*|must be <=)\s*\(?(\d+)", re.IGNORECASE
).search
_prompt = re.compile(
    r"(\d+) (?:tokens? )?(?:in|from) the (?:messages|prompt|input)|(\d+) (?:`inputs`|input) tokens",
    re.IGNORECASE,
).search
_sum = re.compile(r"(\d+) \+ \d+ > (\d+)").search
"""Anthropic's: prompt, answer, context."""


async def send_shrunk(
    upstream: Upstream, request: UpstreamRequest, limit: int | None
) -> UpstreamResponse:
    """Make a call whose answer is no longer than what there is room for.

    Args:
        upstream: Where it goes.
        request: The call.
        limit: Most tokens of the answer; None for any number. Should the server refuse the call as
            too long, and say how much room its prompt leaves, it is made once more within that.

    Raises:
        UpstreamError: See `Upstream.send`.
    """
    if limit is not None:
        request = replace(request, body=with_limit(request.body, request.path, limit))
    response = await upstream.send(request)
    if response.status not in _REFUSALS:
        return response
    try:
        body = await response.read()
    finally:
        await response.aclose()
    message, _, _ = read_error(response.status, body)
    room = room_for_answer(message)
    if code_of_answer(response.status, body) != ContextLengthError.code or not room:
        return UpstreamResponse(status=response.status, headers=response.headers, body=_once(body))
    return await upstream.send(replace(request, body=with_limit(request.body, request.path, room)))


def room_for_answer(message: str) -> int | None:
    """Return how many tokens a refused prompt leaves for the answer, if the server says it.

    None also where the prompt alone is too long.

    Example:
        >>> room_for_answer(
        ...     "This model's maximum context length is 100 tokens. However, you requested 130 "
        ...     "tokens (60 in the messages, 70 in the completion)."
        ... )
        40
    """
    context, prompt, added = _context(message), _prompt(message), _sum(message)
    if context is not None and prompt is not None:
        room = int(context[1]) - int(next(filter(None, prompt.groups())))
    elif added is not None:
        room = int(added[2]) - int(added[1])
    else:
        return None
    return room if room > 0 else None


def with_limit(body: bytes, path: str, limit: int) -> bytes:
    """Return a request whose answer has at most so many tokens, over all its choices.

    Requests that ask for less, and those of formats without such a limit, are left as they are.
    """
    names = _LIMITS.get(path)
    request: Any = parse_json(body) if names else None
    if not names or not isinstance(request, dict):
        return body
    choices = request.get("n")
    each = max(1, limit // choices) if isinstance(choices, int) and choices > 1 else limit
    said = [name for name in names if isinstance(request.get(name), int)] or [names[0]]
    unsaid = _COMPLETIONS_DEFAULT if path == "/v1/completions" else None
    lowered = {name: each for name in said if (request.get(name) or unsaid or each + 1) > each}
    return write_json({**request, **lowered}) if lowered else body


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
