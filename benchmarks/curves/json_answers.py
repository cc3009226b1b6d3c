"""Format control: SmolLM2 learns to answer with a JSON object and nothing around it."""

from __future__ import annotations

import json

import agentlightning as agl
from benchmarks.curves.curve import Curve, Figures, Start
from benchmarks.curves.fit import Stopwatch, ask, fit, smollm2

__all__ = ["curves", "describe"]

TRAINED = [
    "apple",
    "dog",
    "car",
    "river",
    "chair",
    "house",
    "cloud",
    "book",
    "shirt",
    "bird",
    "flower",
    "bottle",
]
HELD_OUT = ["pencil", "horse", "table", "lamp", "boat", "leaf", "wall", "cup"]


@agl.rollout
def describe(task: str, llm: agl.LLM) -> float:
    """Ask for a colour; 1 for an object with a text under "color", and 0 for all else."""
    question = f'What color is a {task}? Answer in JSON like {{"color": "red"}}.'
    said = ask(llm, [{"role": "user", "content": question}], max_tokens=16)
    try:
        answer = json.loads(said)
    except ValueError:
        return 0.0
    return float(isinstance(answer, dict) and isinstance(answer.get("color"), str))


def learn(start: Start) -> Figures:
    """Fit the adapters; held-out things are asked about at the temperature of training."""
    watch = Stopwatch()
    algorithm = agl.GRPO(
        **smollm2(start),
        max_tokens=16,
        eval_temperature=1.0,
    )
    return fit(algorithm, describe, TRAINED, HELD_OUT * 4, watch=watch)


def curves() -> list[Curve]:
    """Return the curve."""
    return [
        Curve(
            name="json",
            title="answers in JSON",
            about=(
                "SmolLM2-135M-Instruct with LoRA r16 is asked for the colour of a thing, as JSON like",
                '`{"color": "red"}`; reward 1 for such an object with nothing around it. 12 steps of 4 things',
                "x 8 rollouts; 8 held-out things are asked about 4 times each at temperature 1 (greedily",
                "the untrained model gets them right).",
            ),
            fit=learn,
            target=0.9,
            threads=2,
        )
    ]
