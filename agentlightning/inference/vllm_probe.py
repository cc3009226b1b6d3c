"""What a vLLM server is found to be at the start: its model, its context, what its numbers mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentlightning.errors import ConfigurationError, RequestError
from agentlightning.inference.vllm_server import VLLMServer

__all__ = ["ServerFacts", "check_tokenizer", "probe_server"]

_TEXT = "The naïve fox:\n  3.14 + 2 = 5,14?"
"""Words, digits, spaces and characters that tokenizers cut differently."""
_COLD = 0.5
_TOP = 5
_SPREAD = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server says about itself."""

    model: str
    """Name of the model that it was started with."""
    context: int
    processed_logprobs: bool
    """Whether temperature is in its log-probabilities (`--logprobs-mode processed_logprobs`)."""


async def probe_server(server: VLLMServer, prompt_ids: list[int]) -> ServerFacts:
    """Ask a server what it is, by its model list and two completions of one token.

    Args:
        server: The server.
        prompt_ids: A short prompt of any content.

    Raises:
        ConfigurationError: It serves no model, or does not tell token ids and log-probabilities.
        RequestError: It refuses to be asked.
        UpstreamError: It failed or cannot be reached.
    """
    cards: list[dict[str, Any]] = (await server.call("GET", "/v1/models"))["data"]
    base = next((card for card in cards if card.get("parent") is None), None)
    if base is None or not base.get("max_model_len"):
        raise ConfigurationError(
            f"{server.name} names no model with a max_model_len in /v1/models; is it vLLM?"
        )
    warm = await _gap(server, base["id"], prompt_ids, temperature=1.0)
    cold = await _gap(server, base["id"], prompt_ids, temperature=_COLD)
    return ServerFacts(
        model=base["id"],
        context=base["max_model_len"],
        # Dividing the logits by T divides every difference of log-probabilities by T.
        processed_logprobs=cold > warm * (1 + 1 / _COLD) / 2 + _SPREAD,
    )


async def check_tokenizer(server: VLLMServer, model: str, tokenizer: Any) -> None:
    """Compare the server's tokenizer with ours on a text.

    Raises:
        ConfigurationError: They differ; ids of one mean nothing to the other.
        RequestError: It refuses to be asked.
        UpstreamError: It failed or cannot be reached.
    """
    asked = {"model": model, "prompt": _TEXT, "add_special_tokens": False}
    theirs: list[int] = (await server.call("POST", "/tokenize", asked))["tokens"]
    ours: list[int] = tokenizer(_TEXT, add_special_tokens=False)["input_ids"]
    if theirs != ours:
        raise ConfigurationError(
            f"{server.name} serves {model!r} with another tokenizer than the model under training "
            "has; start it with the same model directory"
        )


async def _gap(
    server: VLLMServer, model: str, prompt_ids: list[int], *, temperature: float
) -> float:
    """Return how far the first of the likeliest tokens is before the last of them."""
    body = {
        "model": model,
        "prompt": prompt_ids,
        "max_tokens": 1,
        "temperature": temperature,
        "top_k": 0,
        "top_p": 1.0,
        "logprobs": _TOP,
        "return_token_ids": True,
    }
    try:
        (choice,) = (await server.complete(body))["choices"]
        values = sorted(choice["logprobs"]["top_logprobs"][0].values(), reverse=True)[:_TOP]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigurationError(
            f"{server.name} does not tell log-probabilities as vLLM does: {error!r}"
        ) from error
    except RequestError as error:
        raise ConfigurationError(
            f"{server.name} refuses to tell log-probabilities: {error}. "
            f"Start it with --max-logprobs {_TOP} or more."
        ) from error
    if choice.get("token_ids") is None:
        raise ConfigurationError(
            f"{server.name} does not tell token ids; vLLM 0.10.2 or later does"
        )
    if values[0] > _SPREAD:
        raise ConfigurationError(
            f"{server.name} tells logits, not log-probabilities; start it with "
            "--logprobs-mode processed_logprobs"
        )
    return values[0] - values[-1]
