"""The smallest task, for every algorithm: say one of 42 words, whatever is asked.

The reward is the share of that word among what was said; a model that knows nothing gets 0.02.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import agentlightning as agl
from benchmarks.curves.curve import Curve, Figures, Start
from benchmarks.curves.fit import Stopwatch, ask, fit, tiny
from benchmarks.curves.models import make_model

__all__ = ["ALGORITHMS", "curves", "learn", "speak"]

WORDS = [f"word{number}" for number in range(42)]
WANTED = "word7"

Make = Callable[..., agl.Algorithm]

ALGORITHMS: dict[str, tuple[Make, dict[str, Any]]] = {
    "GRPO (our defaults)": (agl.GRPO, {}),
    "GRPO, variant grpo": (agl.GRPO, {"variant": "grpo"}),
    "GRPO, variant dr_grpo": (agl.GRPO, {"variant": "dr_grpo"}),
    "GRPO, variant dapo": (agl.GRPO, {"variant": "dapo", "overlong": "keep"}),
    "GRPO, variant gspo": (agl.GRPO, {"variant": "gspo"}),
    "GRPO, variant cispo": (agl.GRPO, {"variant": "cispo"}),
    "GRPO, variant sapo": (agl.GRPO, {"variant": "sapo"}),
    "RLOO": (agl.RLOO, {}),
    "REINFORCE++": (agl.ReinforcePlusPlus, {}),
    "REINFORCE++ with baseline": (agl.ReinforcePlusPlus, {"baseline": True}),
    "PPO": (agl.PPO, {}),
    "SFT on the best of 8 rollouts": (agl.SFT, {"source": "rollouts", "best_of_group": 1}),
    "DPO on the best and the worst of 8": (agl.DPO, {"lora_rank": 16}),
    "KTO": (agl.KTO, {"lora_rank": 16}),
}
"""Title to class and what its settings have besides `SETTINGS`. DAPO goes without its penalty for
answers that reach the limit: here most do."""

SETTINGS: dict[str, Any] = {
    "group_size": 8,
    "batch_groups": 2,
    "steps": 40,
    "learning_rate": 5e-3,
    "max_tokens": 12,
}
"""A rate for 77 thousand parameters from scratch, a hundred and more times that for large models."""

WIDE = 0.15
"""Spread of the weights where only adapters are trained, over a random model: with the usual 0.02
no answer could get a probability above 0.1."""


@agl.rollout
def speak(task: str, llm: agl.LLM) -> float:
    """Ask once, and count."""
    said = ask(llm, [{"role": "user", "content": task}], max_tokens=12).split()
    return said.count(WANTED) / max(1, len(said))


def learn(title: str, start: Start, **settings: Any) -> Figures:
    """Fit with one of `ALGORITHMS`; asked with words that are not trained with, it is held out."""
    watch = Stopwatch()
    make, own = ALGORITHMS[title]
    spread = WIDE if own.get("lora_rank") else 0.02
    model = make_model(start.directory / "model", WORDS, seed=start.seed, spread=spread)
    algorithm = make(**tiny(model, start) | SETTINGS | own | settings)
    return fit(algorithm, speak, WORDS[10:], WORDS[:6], watch=watch)


def curves() -> list[Curve]:
    """Return a curve for each algorithm, called `preference/...`."""
    return [
        Curve(
            name=f"preference/{title}",
            title=title,
            about=(),
            fit=lambda start, title=title: learn(title, start),
            target=0.95,
            has_control=title.startswith(("GRPO", "RLOO", "REINFORCE", "PPO")),
        )
        for title in ALGORITHMS
    ]
