"""Tiny models that were shown how: supervised on demonstrations, and exported for what follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import agentlightning as agl
from benchmarks.curves.curve import Start
from benchmarks.curves.models import make_model

__all__ = ["Demonstrations", "talk", "warm_start"]

Demonstrations = Sequence[Mapping[str, Any]]


def talk(*contents: str, system: str | None = None) -> dict[str, Any]:
    """Return a demonstration: user and assistant by turns, the user first."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn, content in enumerate(contents):
        messages.append({"role": "assistant" if turn % 2 else "user", "content": content})
    return {"messages": messages}


def warm_start(
    start: Start,
    symbols: Sequence[str],
    demonstrations: Demonstrations,
    *,
    steps: int,
    batch: int = 32,
    learning_rate: float = 3e-3,
    **shape: Any,
) -> Path:
    """Make a model, let `SFT` imitate demonstrations, and return the directory of the export.

    Args:
        start: The model's seed, and where it is to lie.
        symbols: The model's alphabet, as for `make_model`.
        demonstrations: What it is shown.
        steps: Training steps.
        batch: Demonstrations in a step.
        learning_rate: For a model from scratch.
        **shape: Further arguments of `make_model`.
    """
    model = make_model(start.directory / "untrained", symbols, seed=start.seed, **shape)
    algorithm = agl.SFT(
        model=str(model),
        model_alias="tiny",
        lora_rank=None,
        batch_groups=batch,
        steps=steps,
        learning_rate=learning_rate,
        seed=start.seed,
        run_dir=str(start.directory / "shown"),
        checkpoint_every=10_000,
        progress=[],
    )
    result: Any = agl.Trainer(algorithm=algorithm, strategy="shm").fit(None, demonstrations)
    return result.export(start.directory / "model")
