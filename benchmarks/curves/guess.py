"""Guess the number: several turns of one conversation, played by a tiny model.

The agent thinks of a number from 1 to 3 and says after the first guess whether it is higher or
lower. Two guesses are enough for who begins with 2 and listens; a player who begins with 1 or 3
finds two numbers of three at best. The model was shown games of a player who takes any number
that is still possible.
"""

from __future__ import annotations

import itertools
from typing import Any

import agentlightning as agl
from benchmarks.curves.curve import Curve, Figures, Start
from benchmarks.curves.fit import Stopwatch, ask, fit, tiny
from benchmarks.curves.warm_start import talk, warm_start

__all__ = ["curves", "play"]

NUMBERS = ["1", "2", "3"]
GUESSES = 2


@agl.rollout
def play(task: str, llm: agl.LLM) -> float:
    """Give the model two guesses; 1 if one is right."""
    messages = [{"role": "user", "content": "guess"}]
    for _ in range(GUESSES):
        guess = ask(llm, messages, max_tokens=1)
        if guess == task:
            return 1.0
        hint = "nonsense" if guess not in NUMBERS else "higher" if guess < task else "lower"
        messages += [{"role": "assistant", "content": guess}, {"role": "user", "content": hint}]
    return 0.0


def demonstrations() -> list[dict[str, Any]]:
    """Return games of a player who takes any number that is still possible, as often as they come."""
    games: list[dict[str, Any]] = []
    for wanted, first in itertools.product(NUMBERS, NUMBERS):
        if wanted == first:
            games += [talk("guess", first)] * 2
            continue
        higher = wanted > first
        possible = [number for number in NUMBERS if number != first and (number > first) == higher]
        hint = "higher" if higher else "lower"
        seconds = possible * (2 // len(possible))
        games += [talk("guess", first, hint, second) for second in seconds]
    return games


def learn(start: Start) -> Figures:
    """Show games, then play; a step has each number twice, so that none is worth more."""
    watch = Stopwatch()
    symbols = [*NUMBERS, "guess", "higher", "lower", "nonsense"]
    model = warm_start(start, symbols, demonstrations(), steps=60, batch=36, hidden=96)
    algorithm = agl.GRPO(
        **tiny(model, start),
        group_size=8,
        batch_groups=6,
        steps=40,
        learning_rate=5e-4,
        warmup_steps=5,
        update_epochs=4,
        zero_signal="keep",
        max_tokens=1,
    )
    return fit(algorithm, play, NUMBERS, NUMBERS, watch=watch)


def curves() -> list[Curve]:
    """Return the curve."""
    return [
        Curve(
            name="guess",
            title="guess the number",
            about=(
                "A model of 170 thousand parameters guesses a number from 1 to 3 in two calls of one conversation,",
                "and is told in between whether it is higher or lower; reward 1 for finding it. `SFT` showed it",
                "games of a player who takes any number that is still possible; `GRPO`, 40 steps of 6 numbers x 8",
                "rollouts, finds out that beginning with 2 never fails. Held-out games are played greedily.",
            ),
            fit=learn,
            target=0.9,
        )
    ]
