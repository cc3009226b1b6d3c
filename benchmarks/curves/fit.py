"""One real fit: trainer, runners, gateway, engine and gradient steps, and what it brought."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openai import OpenAI

import agentlightning as agl
from benchmarks.curves.curve import Figures, Start

__all__ = ["Stopwatch", "ask", "fit", "smollm2", "tiny"]

_CLIENT = OpenAI(base_url="http://unused", api_key="-", max_retries=0)
"""One for all rollouts: making a client costs more than a call of a tiny model."""


class Stopwatch:
    """Wall and CPU seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return wall seconds and CPU seconds of this process, all threads."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def ask(
    llm: agl.LLM, messages: Sequence[Mapping[str, str]], *, max_tokens: int, role: str | None = None
) -> str:
    """Call the model as an agent does, and return what it said."""
    client: Any = _CLIENT.with_options(base_url=llm.endpoint)
    reply = client.chat.completions.create(
        model=llm.model,
        messages=list(messages),
        max_tokens=max_tokens,
        extra_headers={"x-agl-role": role} if role else None,
    )
    return reply.choices[0].message.content or ""


def common(start: Start) -> dict[str, Any]:
    """Return the settings that every fit has."""
    return {
        "seed": start.seed,
        "run_dir": str(start.directory / "run"),
        # Writing checkpoints is no part of what is measured.
        "checkpoint_every": 10_000,
        "progress": [],
        **({"shuffle_advantages": True} if start.shuffled else {}),
    }


def smollm2(start: Start) -> dict[str, Any]:
    """Return the settings of a short fit of SmolLM2 with adapters."""
    return {
        "model": "smollm2-135m-instruct",
        "group_size": 8,
        "batch_groups": 4,
        "steps": 12,
        "learning_rate": 5e-4,
    } | common(start)


def tiny(model: object, start: Start) -> dict[str, Any]:
    """Return the settings of a fit of a tiny model: those of `common`, and every weight trained."""
    return {"model": str(model), "model_alias": "tiny", "lora_rank": None} | common(start)


def fit(
    algorithm: agl.Algorithm,
    agent: Callable[..., Any] | None,
    tasks: Sequence[Any],
    held_out: Sequence[Any],
    *,
    watch: Stopwatch,
) -> Figures:
    """Fit, and read what it brought from the run's metrics."""
    trainer = agl.Trainer(
        algorithm=algorithm,
        strategy="shm",
        n_runners=2,
        concurrency=32,
        store=agl.InMemoryLightningStore(),
    )
    result: Any = trainer.fit(agent, tasks, val_dataset=held_out)
    rewards = [line["training/reward"] for line in result.metrics() if "training/reward" in line]
    wall, cpu = watch.read()
    return Figures(
        rewards=rewards,
        before=result.evaluations[0].reward,
        after=result.evaluations[-1].reward,
        wall_seconds=wall,
        cpu_seconds=cpu,
    )
