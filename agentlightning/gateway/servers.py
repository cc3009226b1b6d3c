"""What the model servers of our time can say about tokens: one entry a server.

As documented by each server in autumn 2026. A server that can do less says so by answering
without ids, and then the call's record names what is missing; one that can do more is described by
giving `UpstreamCapabilities` of your own.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentlightning.errors import ConfigurationError
from agentlightning.gateway.upstream import UpstreamCapabilities

__all__ = ["SERVERS", "capabilities_of"]

_CHAT = frozenset({"openai.chat", "openai.completions"})
_ALL = _CHAT | {"openai.responses", "anthropic.messages"}

SERVERS: Mapping[str, UpstreamCapabilities] = {
    # Ids in streams too; none on its Responses and Anthropic routes.
    "vllm": UpstreamCapabilities(token_ids=True, logprobs=True, dialects=_ALL),
    # Refuses `return_token_ids` in a stream.
    "sglang": UpstreamCapabilities(
        token_ids=True, token_ids_in_streams=False, logprobs=True, dialects=_ALL
    ),
    # Sampled ids stand in its log-probabilities; it tells no prompt ids.
    "llama.cpp": UpstreamCapabilities(logprobs=True, dialects=_CHAT | {"anthropic.messages"}),
    "ollama": UpstreamCapabilities(logprobs=True, dialects=_ALL),
    "tgi": UpstreamCapabilities(logprobs=True, dialects=frozenset({"openai.chat"})),
    # Log-probabilities are refused by its reasoning models, so they are not asked for.
    "openai": UpstreamCapabilities(dialects=_CHAT | {"openai.responses"}),
    "anthropic": UpstreamCapabilities(dialects=frozenset({"anthropic.messages"})),
}
"""By name, in lower case."""


def capabilities_of(server: str) -> UpstreamCapabilities:
    """Return what a kind of server can do.

    Raises:
        ConfigurationError: The name is not in `SERVERS`.
    """
    try:
        return SERVERS[server.lower()]
    except KeyError:
        raise ConfigurationError(
            f"{server!r} is no known kind of model server. Use one of {', '.join(SERVERS)}, or "
            "give UpstreamCapabilities."
        ) from None
