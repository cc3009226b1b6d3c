"""0.3.0's model lists, in LiteLLM's shape, as routes.

Servers that speak OpenAI's or Anthropic's interface are called directly. Other providers need
translation, which is LiteLLM's job.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentlightning.errors import ConfigurationError, MissingExtraError
from agentlightning.gateway.balance import BalancedUpstream
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.litellm_upstream import LiteLLMUpstream
from agentlightning.gateway.model_config import ModelConfig
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.price import TokenPrice
from agentlightning.gateway.servers import capabilities_of
from agentlightning.gateway.upstream import Upstream, UpstreamCapabilities
from agentlightning.settings import agent_environment

__all__ = ["routes_from_model_list"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Provider:
    """A prefix of LiteLLM's model names that stands for a server we can call directly."""

    server: str | None = None
    """Its kind in `SERVERS`; None where anything may be behind the name."""
    url: str | None = None
    """Where it is unless the entry says so."""
    key_variable: str | None = None
    """What holds the key for that place, and for no other."""


_PROVIDERS: Mapping[str, _Provider] = {
    "hosted_vllm": _Provider("vllm"),
    "vllm": _Provider("vllm"),
    "sglang": _Provider("sglang"),
    "llamafile": _Provider("llama.cpp", "http://127.0.0.1:8080/v1"),
    "llama_cpp": _Provider("llama.cpp", "http://127.0.0.1:8080/v1"),
    "ollama": _Provider("ollama", "http://127.0.0.1:11434/v1"),
    "ollama_chat": _Provider("ollama", "http://127.0.0.1:11434/v1"),
    "tgi": _Provider("tgi"),
    "huggingface": _Provider("tgi", "https://router.huggingface.co/v1", "HF_TOKEN"),
    "openai": _Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    "custom_openai": _Provider(),
    "openai_like": _Provider(),
    "anthropic": _Provider("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
}
_PRICES = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
_MILLION = 1_000_000
_USED_PARAMS = frozenset({"model", "api_base", "base_url", "api_key", "timeout", *_PRICES})
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
            None asks those that are known to have them.

    Raises:
        ConfigurationError: An entry is incomplete, or needs LiteLLM, which is not installed.
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
        upstream=upstream,
        model=models.pop(),
        trained=trained,
        price=_price(name, entries),
        sampling_defaults=defaults,
    )


def _price(name: str, entries: list[ModelConfig]) -> TokenPrice | None:
    """Return the price under LiteLLM's names, which are of one token."""
    told = [{**entry["litellm_params"], **entry.get("model_info", {})} for entry in entries]
    given = [[each.get(key) for key in _PRICES] for each in told]
    if any(prices != given[0] for prices in given):
        raise ConfigurationError(f"The entries of {name!r} have different prices: give all one.")
    if given[0] == [None] * len(_PRICES):
        return None
    input_price, output_price, cached = given[0]
    if input_price is None or output_price is None:
        raise ConfigurationError(
            f"{name!r} has half a price. Give input_cost_per_token and output_cost_per_token."
        )
    return TokenPrice(
        input=input_price * _MILLION,
        output=output_price * _MILLION,
        cached_input=None if cached is None else cached * _MILLION,
    )


def _upstream(
    params: Mapping[str, Any], *, retries: int, callbacks: Sequence[str] | None
) -> Upstream:
    prefix, model = _split(params["model"])
    provider = _PROVIDERS.get(prefix)
    if provider is None:
        return _litellm_upstream(params, retries=retries, callbacks=callbacks)
    unused = sorted(set(params) - _USED_PARAMS - _SAMPLING_PARAMS)
    if unused:
        logger.warning(
            "model list parameters are not used", extra={"model": model, "parameters": unused}
        )
    given_url = params.get("api_base") or params.get("base_url")
    base_url = given_url or provider.url
    if not base_url:
        raise ConfigurationError(f"{params['model']} has no api_base. Say where the server is.")
    timeout = {"timeout": float(params["timeout"])} if params.get("timeout") else {}
    return HttpUpstream(
        base_url,
        api_key=_api_key(params.get("api_key"), None if given_url else provider.key_variable),
        capabilities=_capabilities(prefix, provider, callbacks, is_own_url=not given_url),
        retries=retries,
        **timeout,
    )


def _litellm_upstream(
    params: Mapping[str, Any], *, retries: int, callbacks: Sequence[str] | None
) -> LiteLLMUpstream:
    left_out = {*_SAMPLING_PARAMS, *_PRICES}
    passed = {key: value for key, value in params.items() if key not in left_out}
    if passed.get("api_key") is not None:
        passed["api_key"] = _api_key(passed["api_key"], None)
    passed.pop("model")
    capabilities = UpstreamCapabilities(
        logprobs="logprobs" in (callbacks or ()), dialects=frozenset({"openai.chat"})
    )
    passed.setdefault("max_retries", retries)
    try:
        return LiteLLMUpstream(params["model"], passed, capabilities=capabilities)
    except MissingExtraError as error:
        raise ConfigurationError(
            f"{params['model']!r} names none of the providers that are called directly "
            f"({', '.join(_PROVIDERS)}). Write 'hosted_vllm/{params['model']}' for a server of "
            "OpenAI's interface; for other providers, have LiteLLM: "
            "pip install 'agentlightning[litellm]'"
        ) from error


def _capabilities(
    prefix: str, provider: _Provider, callbacks: Sequence[str] | None, *, is_own_url: bool
) -> UpstreamCapabilities:
    """Return what a server can do; OpenAI's name is used for all that speak its format."""
    is_known = provider.server is not None and (is_own_url or prefix != "openai")
    known = capabilities_of(provider.server or "") if is_known else UpstreamCapabilities()
    if callbacks is None:
        return known
    return replace(
        known,
        token_ids="return_token_ids" in callbacks,
        logprobs=known.logprobs or "logprobs" in callbacks,
    )


def _split(model: str) -> tuple[str, str]:
    """Return provider and name; a bare name is OpenAI's."""
    provider, slash, name = model.partition("/")
    return (provider, name) if slash else ("openai", model)


def _api_key(given: str | None, key_variable: str | None) -> str | None:
    """Return the key to send: the one given, by value or by variable, or the provider's own."""
    environment_prefix = "os.environ/"
    if given is not None and given.startswith(environment_prefix):
        name = given.removeprefix(environment_prefix)
        key = agent_environment().get(name)
        if key is None:
            raise ConfigurationError(f"The API key is to come from {name}, which is not set.")
        return key
    if given is None and key_variable is not None:
        return agent_environment().get(key_variable)
    return given
