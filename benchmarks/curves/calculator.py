"""The calculator agent of `examples/calculator`, trained as its example trains it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import agentlightning as agl
from benchmarks.curves.curve import Curve, Figures, Start
from benchmarks.curves.fit import Stopwatch, fit, smollm2

__all__ = ["curves"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "calculator"


def example() -> tuple[ModuleType, ModuleType]:
    """Return the example's agent and tasks, which lie beside each other in no package."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        import agent  # pyright: ignore[reportMissingImports]  # found by the line above
        import tasks  # pyright: ignore[reportMissingImports]  # likewise
    finally:
        sys.path.remove(str(EXAMPLE))
    return agent, tasks


def learn(start: Start) -> Figures:
    """Fit the adapters; greedy on numbers that are never trained on."""
    agent, tasks = example()
    watch = Stopwatch()
    algorithm = agl.GRPO(
        **smollm2(start),
        max_tokens=20,
    )
    trained = tasks.train_tasks(seed=start.seed)
    return fit(algorithm, agent.calculator_agent, trained, tasks.held_out_tasks(32), watch=watch)


def curves() -> list[Curve]:
    """Return the curve."""
    return [
        Curve(
            name="calculator",
            title="the calculator agent",
            about=(
                "`examples/calculator`: SmolLM2-135M-Instruct with LoRA r16, two model calls and one executed",
                "calculation per rollout, 12 steps of 4 tasks x 8 rollouts; reward 1 for the right final number.",
                "Held-out tasks use numbers that are never trained on, and are answered greedily.",
            ),
            fit=learn,
            target=0.9,
            threads=2,
        )
    ]
