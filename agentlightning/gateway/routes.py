"""Reading a request's address: which attempt it belongs to, and what it asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from agentlightning.errors import RequestError
from agentlightning.gateway.seal import AttemptKey

__all__ = [
    "ATTEMPT_HEADER",
    "ROLE_HEADER",
    "ROLLOUT_HEADER",
    "Target",
    "attempt_path",
    "forwarded_headers",
    "read_headers",
    "read_retry",
    "read_subagent",
    "read_target",
    "read_trace_parent",
    "seal_path",
]

ROLLOUT_HEADER = "x-rollout-id"
ATTEMPT_HEADER = "x-attempt-id"
ROLE_HEADER = "x-agl-role"
"""Names the agent that makes a call, where a rollout has several."""

_CLAUDE_AGENT_HEADER = "x-claude-code-agent-id"
"""The `claude` program names its sub-agents by it; its main agent sends none."""

_OWN_HEADERS = frozenset({ROLLOUT_HEADER, ATTEMPT_HEADER, ROLE_HEADER, "x-sequence-id"})
# Encodings are left out because capturing needs plain bytes.
_NOT_FORWARDED = _OWN_HEADERS | {
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_attempt_path = re.compile(r"/rollout/([^/]+)/attempt/([^/]+)(?:/role/([^/]+))?(/.*|)").fullmatch
_trace_parent = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}.*").fullmatch
# Clients whose base URL lacks the version, as 0.3.0's endpoints did, mean these paths.
_VERSIONED = ("/chat/completions", "/completions", "/embeddings", "/models", "/responses")


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is for."""

    path: str
    """As an upstream would see it, percent-encoded."""
    attempt: AttemptKey | None
    """None for calls that belong to no attempt; those are not recorded."""
    role: str | None = None
    """Which agent of the rollout calls, where the client says so."""


def attempt_path(rollout_id: str, attempt_id: str) -> str:
    """Return the path of an attempt under `Gateway.url`; the paths of an upstream go below it."""
    return f"/rollout/{rollout_id}/attempt/{attempt_id}"


def seal_path(rollout_id: str, attempt_id: str) -> str:
    """Return the path that waits for an attempt's calls, to be posted to under `Gateway.url`."""
    return f"{attempt_path(rollout_id, attempt_id)}/seal"


def read_target(raw_path: str, headers: Mapping[str, str]) -> Target:
    """Return what a request is for, from its path or else from its headers.

    Raises:
        RequestError: It names a rollout without an attempt, or the other way round.

    Example:
        >>> read_target("/rollout/ro-1/attempt/at-1/v1/models", {})
        Target(path='/v1/models', attempt=('ro-1', 'at-1'), role=None)
    """
    match = _attempt_path(raw_path)
    if match:
        rollout_id, attempt_id = unquote(match[1]), unquote(match[2])
        role = unquote(match[3]) if match[3] else headers.get(ROLE_HEADER)
        return Target(_versioned(match[4] or "/"), (rollout_id, attempt_id), role)
    rollout_id, attempt_id = headers.get(ROLLOUT_HEADER), headers.get(ATTEMPT_HEADER)
    if bool(rollout_id) != bool(attempt_id):
        raise RequestError(f"Send both {ROLLOUT_HEADER} and {ATTEMPT_HEADER}, or neither.")
    attempt = (rollout_id, attempt_id) if rollout_id and attempt_id else None
    return Target(_versioned(raw_path), attempt, headers.get(ROLE_HEADER))


def _versioned(path: str) -> str:
    if path.startswith("/v1/v1/"):
        return path[3:]
    return f"/v1{path}" if path.startswith(_VERSIONED) else path


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return ASGI headers as text; repeated ones are joined by commas."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def forwarded_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what of a request's or an answer's headers the other side gets to see."""
    return {name: value for name, value in headers.items() if name not in _NOT_FORWARDED}


def read_trace_parent(headers: Mapping[str, str]) -> tuple[str, str] | tuple[None, None]:
    """Return the trace id and parent span id that a client announced, or two Nones."""
    match = _trace_parent(headers.get("traceparent", ""))
    return (match[1], match[2]) if match else (None, None)


def read_retry(headers: Mapping[str, str]) -> int:
    """Return which repeat of a failed call a request is, as OpenAI's and Anthropic's clients say.

    Example:
        >>> read_retry({"x-stainless-retry-count": "2"}), read_retry({})
        (2, 0)
    """
    said = headers.get("x-stainless-retry-count", "")
    return int(said) if said.isdecimal() and said.isascii() else 0


def read_subagent(headers: Mapping[str, str]) -> str | None:
    """Return the role of a sub-agent of the `claude` program, for calls that have no other role.

    The program makes up an id for each sub-agent, so a regular expression for roles can tell
    sub-agents from the main agent, but not one kind of them from another.

    Example:
        >>> read_subagent({"x-claude-code-agent-id": "a98"}), read_subagent({})
        ('subagent:a98', None)
    """
    agent = headers.get(_CLAUDE_AGENT_HEADER)
    return f"subagent:{agent}" if agent else None
