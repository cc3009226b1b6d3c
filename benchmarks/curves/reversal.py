"""SFT, then GRPO: write a word backwards, a character at a time."""

from __future__ import annotations

import random

import agentlightning as agl
from benchmarks.curves.curve import Curve, Figures, Start
from benchmarks.curves.fit import Stopwatch, ask, fit, tiny
from benchmarks.curves.warm_start import talk, warm_start

__all__ = ["curves", "reverse"]

LETTERS = "abcdefghij"


@agl.rollout
def reverse(task: str, llm: agl.LLM) -> float:
    """Ask for a word backwards; 1 for exactly that."""
    said = ask(llm, [{"role": "user", "content": task}], max_tokens=len(task) + 2)
    return float(said == task[::-1])


def words(count: int, rng: random.Random) -> list[str]:
    """Return words of 5 to 6 letters, each different from all others."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choices(LETTERS, k=rng.randint(5, 6)))] = None
    return list(found)


def learn(start: Start) -> Figures:
    """Show some thousand words, then let the model try others; held-out ones are in neither."""
    watch = Stopwatch()
    every = words(6_064, random.Random(start.seed))
    shown, tried, held_out = every[:5_000], every[5_000:6_000], every[6_000:]
    model = warm_start(
        start,
        LETTERS,
        [talk(word, word[::-1]) for word in shown],
        steps=SHOWN_STEPS,
        batch=64,
        characters=True,
        hidden=128,
    )
    algorithm = agl.GRPO(
        **tiny(model, start),
        group_size=8,
        batch_groups=16,
        steps=160,
        learning_rate=3e-4,
        warmup_steps=5,
        update_epochs=2,
        zero_signal="keep",
        max_tokens=8,
    )
    return fit(algorithm, reverse, tried, held_out, watch=watch)


SHOWN_STEPS = 75
"""So few that about half of the words come out right at temperature 1."""


def curves() -> list[Curve]:
    """Return the curve."""
    return [
        Curve(
            name="reversal",
            title="words backwards, SFT then GRPO",
            about=(
                "A character-level model of 300 thousand parameters from scratch is shown words of 5 and 6 letters",
                f"backwards ({SHOWN_STEPS} steps of `SFT` x 64), exported, and trained with `GRPO` on other words:",
                "160 steps of 16 words x 8 rollouts, reward 1 for exactly the word backwards. Held-out words are",
                "in neither part; their figure before is that of the exported model.",
            ),
            fit=learn,
            target=0.85,
        )
    ]
