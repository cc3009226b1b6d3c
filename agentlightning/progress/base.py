"""Progress: what a running fit tells its watchers. Data and the watcher's protocol only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Phase", "ProgressSink", "RunInfo", "Sample", "StepReport"]

Phase = str
"""What the fit is doing: `loading`, `evaluating`, `sampling`, `training`, `saving`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What is about to run."""

    algorithm: str
    model: str
    run_dir: str
    first_step: int
    """0, or the number of steps done before a resume."""
    total_steps: int
    config: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One rollout as a person would read it."""

    task: str
    answer: str
    """Last assistant message."""
    reward: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One finished training step."""

    step: int
    """From 1."""
    reward: float
    """Mean over the step's rollouts."""
    metrics: dict[str, float]
    """Every metric of the step, under its public name."""
    best: Sample | None = None
    worst: Sample | None = None
    warnings: list[str] = field(default_factory=list[str])


class ProgressSink(Protocol):
    """Something that watches a fit. Calls come from one thread, in order."""

    def started(self, info: RunInfo) -> None:
        """A fit begins or is resumed."""
        ...

    def phase(self, phase: Phase, done: int = 0, total: int = 0) -> None:
        """The fit does `phase` now, and is `done` of `total` through with it."""
        ...

    def stepped(self, report: StepReport) -> None:
        """A training step ended."""
        ...

    def evaluated(
        self,
        step: int,
        reward: float,
        tasks: int,
        seconds: float,
        *,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """An evaluation ended.

        Args:
            step: Training steps done.
            reward: Mean over the tasks; minus `val/loss` where no agent did them.
            tasks: How many there were.
            seconds: How long it took.
            metrics: What else was measured, by full name.
        """
        ...

    def warned(self, message: str) -> None:
        """Something needs the user's attention."""
        ...

    def ended(self, *, interrupted: bool, next_steps: list[str]) -> None:
        """The fit is over; `next_steps` are commands worth showing."""
        ...
