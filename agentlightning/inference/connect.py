"""Finding an inference backend by its name in a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentlightning.engine.chat import HistoryMode
from agentlightning.engine.engine import EngineConfig
from agentlightning.errors import ConfigurationError
from agentlightning.inference.base import InferenceBackend
from agentlightning.inference.embedded import EmbeddedInference
from agentlightning.inference.vllm import VLLMInference
from agentlightning.inference.vllm_server import VLLMServer
from agentlightning.settings import Settings

__all__ = ["connect_inference"]

_SCHEMES = {"vllm": "http", "vllm+http": "http", "vllm+https": "https"}


def connect_inference(
    spec: str,
    *,
    model: Any,
    tokenizer: Any,
    name: str,
    history: HistoryMode = "exact",
    roles: Mapping[str, str] | None = None,
    seed: int | None = None,
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
        seed: Seed of the embedded engine's calls that bring none.
        weights_dir: Where a model server reads new weights; see `VLLMInference`.

    Raises:
        ConfigurationError: Nothing has this name, or it cannot sample this model.
    """
    if spec == "embedded":
        return EmbeddedInference(
            model,
            tokenizer,
            name=name,
            history=history,
            roles=roles,
            config=EngineConfig(seed=seed),
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
