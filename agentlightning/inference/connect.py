"""Finding an inference backend by its name in a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agentlightning.engine.chat import HistoryMode
from agentlightning.engine.engine import EngineConfig, PauseMode
from agentlightning.errors import ConfigurationError
from agentlightning.inference.base import InferenceBackend
from agentlightning.inference.embedded import EmbeddedInference
from agentlightning.inference.embedded_copy import EmbeddedCopy
from agentlightning.inference.vllm import VLLMInference
from agentlightning.inference.vllm_server import VLLMServer
from agentlightning.settings import Settings

__all__ = ["EmbeddedOptions", "connect_inference"]

_SCHEMES = {"vllm": "http", "vllm+http": "http", "vllm+https": "https"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedOptions:
    """How the engine of this process samples."""

    seed: int | None = None
    """Seed of calls that bring none."""
    overlap: bool = False
    """Sample a copy of what is trained, so that training does not stop the sampling."""
    swap: PauseMode = "wait"
    """With `overlap`: what becomes of running completions when the copy changes."""


def connect_inference(
    spec: str,
    *,
    model: Any,
    tokenizer: Any,
    name: str,
    history: HistoryMode = "exact",
    roles: Mapping[str, str] | None = None,
    embedded: EmbeddedOptions | None = None,
    weights_dir: str | None = None,
) -> InferenceBackend:
    """Return the backend that `spec` names; nothing is sampled or connected before `start`.

    Args:
        spec: `embedded`: an engine in this process, on `model` itself; `vllm://host:port`, or
            `vllm+https://` before the server's address: a vLLM server.
        model: The module that is trained.
        tokenizer: Its tokenizer.
        name: Name that agents call the model by.
        history: How prompts with earlier answers are made.
        roles: For several adapters, which agents each samples for: adapter to the regular
            expression that fits their roles.
        embedded: How the engine of this process samples.
        weights_dir: Where a model server reads new weights; see `VLLMInference`.

    Raises:
        ConfigurationError: Nothing has this name, or it cannot sample this model.
    """
    if spec == "embedded":
        chosen = embedded or EmbeddedOptions()
        copying = partial(EmbeddedCopy, swap=chosen.swap)
        serve = copying if chosen.overlap else EmbeddedInference
        return serve(
            model,
            tokenizer,
            name=name,
            history=history,
            roles=roles,
            config=EngineConfig(seed=chosen.seed),
        )
    kind, separator, address = spec.partition("://")
    if not separator or kind not in _SCHEMES or not address:
        raise ConfigurationError(
            f"inference={spec!r} is unknown; use 'embedded' or 'vllm://host:port'."
        )
    key = Settings.from_environment().vllm_api_key
    if roles:
        raise ConfigurationError("several adapters are sampled by inference='embedded' only")
    return VLLMInference(
        VLLMServer(f"{_SCHEMES[kind]}://{address}", api_key=key),
        model=model,
        tokenizer=tokenizer,
        name=name,
        history=history,
        weights_dir=Path(weights_dir).expanduser() if weights_dir else None,
    )
