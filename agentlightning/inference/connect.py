"""Finding an inference backend by its name in a run's configuration."""

from __future__ import annotations

from typing import Any

from agentlightning.engine.chat import HistoryMode
from agentlightning.engine.engine import EngineConfig
from agentlightning.errors import ConfigurationError
from agentlightning.inference.base import InferenceBackend
from agentlightning.inference.embedded import EmbeddedInference

__all__ = ["connect_inference"]


def connect_inference(
    spec: str,
    *,
    model: Any,
    tokenizer: Any,
    name: str,
    history: HistoryMode = "exact",
    seed: int | None = None,
) -> InferenceBackend:
    """Return the backend that `spec` names; nothing is sampled or connected before `start`.

    Args:
        spec: `embedded`: an engine in this process, on `model` itself.
        model: The module that is trained.
        tokenizer: Its tokenizer.
        name: Name that agents call the model by.
        history: How prompts with earlier answers are made.
        seed: Seed of calls that bring none.

    Raises:
        ConfigurationError: Nothing has this name, or it cannot sample this model.
    """
    if spec == "embedded":
        return EmbeddedInference(
            model, tokenizer, name=name, history=history, config=EngineConfig(seed=seed)
        )
    raise ConfigurationError(f"inference={spec!r} is unknown; use 'embedded'.")
