"""A system of two agents that share a model, of which only the router is trained.

A router is asked about an animal and names a desk; the desk answers the question, and the system
is rewarded for the right answer. Each desk knows one thing of each animal. The router was shown
wrong desks more often than right ones, and finds out by what its choices earn.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import agentlightning as agl
from agentlightning.algorithm.policy.gradient import PolicyGradient
from benchmarks.curves.curve import Curve, Figures, Start
from benchmarks.curves.fit import Stopwatch, ask, fit, tiny
from benchmarks.curves.warm_start import talk, warm_start

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.learning.losses import LossSpec
    from agentlightning.learning.rows import RowBatch
    from agentlightning.types import CallRecord

__all__ = ["RouterOnly", "answer", "curves"]

ANIMALS = ("cow", "dog", "cat", "duck")
DESKS = {
    "north": ("moo", "woof", "meow", "quack"),
    "south": ("barn", "kennel", "sofa", "pond"),
    "west": ("grass", "bone", "fish", "bread"),
}
"""Desk to what it says of each animal."""
QUESTIONS = {"says": "north", "lives": "south", "eats": "west"}


@agl.rollout
def answer(task: dict[str, str], llm: agl.LLM) -> float:
    """Let the router choose a desk, and the desk answer."""
    question = f"{task['question']} {task['animal']}"
    router = [{"role": "system", "content": "router"}, {"role": "user", "content": question}]
    desk = ask(llm, router, max_tokens=2, role="router")
    if desk not in DESKS:
        return 0.0
    asked = [{"role": "system", "content": desk}, {"role": "user", "content": task["animal"]}]
    return float(ask(llm, asked, max_tokens=2, role="desk") == task["answer"])


def tasks() -> list[dict[str, str]]:
    """Return every question with its answer, those about ducks last."""
    return [
        {
            "question": question,
            "animal": animal,
            "answer": DESKS[desk][place],
        }
        for place, animal in enumerate(ANIMALS)
        for question, desk in QUESTIONS.items()
    ]


def demonstrations() -> list[dict[str, Any]]:
    """Return what the desks know, and a router that is right in one of four cases and prefers a
    certain wrong desk.
    """
    known = [
        talk(animal, said, system=desk)
        for desk, answers in DESKS.items()
        for animal, said in zip(ANIMALS, answers, strict=True)
    ]
    names = list(DESKS)
    chosen = [
        talk(
            f"{question} {animal}", names[(names.index(right) + away) % len(names)], system="router"
        )
        for (question, right), animal in itertools.product(QUESTIONS.items(), ANIMALS)
        for away in (0, 1, 1, 2)
    ]
    # As often as the router's, so that what desks say is certain.
    return [*known * 4, *chosen]


class RouterOnly(PolicyGradient):
    """The learner of GRPO, which also makes sure of whose tokens are trained."""

    async def learn(self, outcomes: Sequence[RolloutOutcome], *, step: int) -> dict[str, float]:
        calls = {call.call_id: call for outcome in outcomes for call in outcome.calls}
        if {call.role for call in calls.values()} != {"router", "desk"}:
            raise AssertionError("A step without calls of both agents shows nothing.")
        policy, witness = self._policy, _Witness(self._policy, calls)
        self._policy = cast("Policy", witness)
        try:
            return await super().learn(outcomes, step=step)
        finally:
            self._policy = policy


class _Witness:
    """A policy that compares what it is to train with the calls that were made."""

    def __init__(self, policy: Policy, calls: Mapping[str, CallRecord]) -> None:
        self._policy, self._calls = policy, calls
        self.decode = policy.decode

    async def train_adapters(
        self, batches: Mapping[str, RowBatch], loss: LossSpec
    ) -> dict[str, float]:
        if set(batches) != {"router"}:
            raise AssertionError(f"Adapters are trained that nobody asked for: {set(batches)}")
        for row in batches["router"]:
            own = [self._calls[call_id] for call_id in row.call_ids]
            sampled = [token for call in own for each in call.choices for token in each.token_ids]
            trained = row.ids[row.mask].tolist()
            if {call.role for call in own} != {"router"} or trained != sampled:
                raise AssertionError(f"More is trained than the router said: {row.call_ids}")
        return await self._policy.train_adapters(batches, loss)


class _RouterGRPO(agl.GRPO):
    def learner(self, policy: Policy) -> RouterOnly:
        return RouterOnly(self.config, policy)


def learn(start: Start) -> Figures:
    """Show desks what they know, then train the router by what the system earns."""
    watch = Stopwatch()
    symbols = [*ANIMALS, *QUESTIONS, *DESKS, "router", *itertools.chain(*DESKS.values())]
    model = warm_start(start, symbols, demonstrations(), steps=120, batch=64, hidden=96)
    settings: dict[str, Any] = {
        "lora_rank": 16,
        "adapters": {"router": "^router$"},
        "group_size": 8,
        "batch_groups": 9,
        "steps": 30,
        "learning_rate": 2e-3,
        "update_epochs": 2,
        "zero_signal": "keep",
        "max_tokens": 2,
    }
    algorithm = _RouterGRPO(**tiny(model, start) | settings)
    every = tasks()
    return fit(algorithm, answer, every[:9], every[9:], watch=watch)


def curves() -> list[Curve]:
    """Return the curve."""
    return [
        Curve(
            name="routing",
            title="a router before another agent",
            about=(
                "Two agents share a model of 170 thousand parameters: a router names one of three desks, the desk",
                "answers. `SFT` taught the desks their answers and the router to name a wrong desk three times in",
                'four; then `GRPO` with `adapters={"router": "^router$"}` trains the router alone by whether the final',
                "answer is right: 30 steps of 9 questions x 8 rollouts. In every step the run compares the trained",
                "tokens with the captured calls: they are exactly what the router sampled. Held-out questions are",
                "about another animal.",
            ),
            fit=learn,
            target=0.8,
        )
    ]
