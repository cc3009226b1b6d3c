"""0.3.0's model lists, in LiteLLM's shape, as routes.

Servers that speak OpenAI's interface are called directly. Other providers need translation, which
is LiteLLM's job and not done here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from agentlightning.errors import ConfigurationError
from agentlightning.gateway.balance import BalancedUpstream
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.model_config import ModelConfig
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.upstream import UpstreamCapabilities
from agentlightning.settings import agent_environment

__all__ = ["routes_from_model_list"]

logger = logging.getLogger(__name__)

_OPENAI_URL = "https://api.openai.com/v1"
_WITH_TOKEN_IDS = frozenset({"hosted_vllm"})
_PROVIDERS = _WITH_TOKEN_IDS | {"openai", "custom_openai", "openai_like"}
_USED_PARAMS = frozenset({"model", "api_base", "base_url", "api_key", "timeout"})
_SAMPLING_PARAMS = frozenset(
    {"temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop"}
)


def routes_from_model_list(
    model_list: Sequence[ModelConfig],
    *,
    retries: int = 0,
    callbacks: Sequence[str] | None = None,
) -> dict[str, ModelRoute]:
    """Return the routes of a model list.

    Args:
        model_list: The entries.
        retries: How often a failed call is made again.
        callbacks: 0.3.0's names. `return_token_ids` and `logprobs` ask every server for these;
            None asks those that are known to have them (`hosted_vllm`).

    Raises:
        ConfigurationError: An entry is incomplete, or its provider needs translation.
    """
    grouped: dict[str, list[ModelConfig]] = {}
    for entry in model_list:
        if not entry.get("model_name") or "model" not in entry.get("litellm_params", {}):
            raise ConfigurationError(
                f"The model list entry {entry!r} is incomplete. "
                "Give model_name and litellm_params with a model."
            )
        grouped.setdefault(entry["model_name"], []).append(entry)
    return {
        name: _route(name, entries, retries=retries, callbacks=callbacks)
        for name, entries in grouped.items()
    }


def _route(
    name: str, entries: list[ModelConfig], *, retries: int, callbacks: Sequence[str] | None
) -> ModelRoute:
    models = {_split(entry["litellm_params"]["model"])[1] for entry in entries}
    if len(models) > 1:
        raise ConfigurationError(
            f"The entries of {name!r} are different models ({sorted(models)}). "
            "Give each model a model_name of its own."
        )
    upstreams = [
        _upstream(entry["litellm_params"], retries=retries, callbacks=callbacks)
        for entry in entries
    ]
    trained = all(entry.get("model_info", {}).get("trained", True) for entry in entries)
    upstream = upstreams[0] if len(upstreams) == 1 else BalancedUpstream(upstreams)
    params = entries[0]["litellm_params"]
    defaults = {name: value for name, value in params.items() if name in _SAMPLING_PARAMS}
    return ModelRoute(
        upstream=upstream, model=models.pop(), trained=trained, sampling_defaults=defaults
    )


def _upstream(
    params: Mapping[str, Any], *, retries: int, callbacks: Sequence[str] | None
) -> HttpUpstream:
    provider, model = _split(params["model"])
    unused = sorted(set(params) - _USED_PARAMS - _SAMPLING_PARAMS)
    if unused:
        logger.warning(
            "model list parameters are not used", extra={"model": model, "parameters": unused}
        )
    has_ids = provider in _WITH_TOKEN_IDS
    capabilities = UpstreamCapabilities(
        token_ids=has_ids if callbacks is None else "return_token_ids" in callbacks,
        logprobs=has_ids or "logprobs" in (callbacks or ()),
    )
    base_url = params.get("api_base") or params.get("base_url")
    if not base_url and provider != "openai":
        raise ConfigurationError(f"{params['model']} has no api_base. Say where the server is.")
    timeout = {"timeout": float(params["timeout"])} if params.get("timeout") else {}
    return HttpUpstream(
        base_url or _OPENAI_URL,
        api_key=_api_key(params.get("api_key"), is_openai=not base_url),
        capabilities=capabilities,
        retries=retries,
        **timeout,
    )


def _split(model: str) -> tuple[str, str]:
    """Return provider and name; a bare name is OpenAI's."""
    provider, slash, name = model.partition("/")
    if not slash:
        return "openai", model
    if provider not in _PROVIDERS:
        raise ConfigurationError(
            f"{model!r}: the gateway speaks to OpenAI-compatible servers only. Write "
            f"'hosted_vllm/{model}' or 'openai/{model}' for one of those; other providers need "
            "LiteLLM as the server (extra 'litellm')."
        )
    return provider, name


def _api_key(given: str | None, *, is_openai: bool) -> str | None:
    """Return the key to send; a key for OpenAI itself goes to no other server."""
    environment_prefix = "os.environ/"
    if given is not None and given.startswith(environment_prefix):
        name = given.removeprefix(environment_prefix)
        key = agent_environment().get(name)
        if key is None:
            raise ConfigurationError(f"The API key is to come from {name}, which is not set.")
        return key
    if given is None and is_openai:
        return agent_environment().get("OPENAI_API_KEY")
    return given
