"""What a learning curve is: a fit that can be repeated from a seed, and what it must reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

__all__ = ["Curve", "Figures", "Start"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where and from what a fit starts."""

    seed: int
    directory: Path
    """Empty, and the fit's own."""
    shuffled: bool = False
    """Whether advantages are dealt to other rollouts, so that nothing can be learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a fit brought."""

    rewards: Sequence[float]
    """Mean sampled reward of each step."""
    before: float
    """Reward on held-out tasks, answered greedily, before the first step."""
    after: float
    """The same after the last one."""
    wall_seconds: float
    cpu_seconds: float
    """Of this process, all threads, from the first preparation to the end of the fit."""
    notes: dict[str, float] = field(default_factory=dict[str, float])
    """Further measurements by name."""

    @property
    def first(self) -> float:
        """Mean reward of the first two steps, which hardly learnt anything yet."""
        return fmean(self.rewards[:2])

    @property
    def last(self) -> float:
        """Mean reward of the last quarter of the steps, of ten at most."""
        return fmean(self.rewards[-min(10, max(3, len(self.rewards) // 4)) :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A task with settings under which it is learnt."""

    name: str
    title: str
    about: Sequence[str]
    """Lines that say what is learnt from what."""
    fit: Callable[[Start], Figures]
    target: float
    """Sampled reward that the last steps must reach from every seed."""
    threads: int = 1
    """Threads of torch; more than one are slower for tiny models."""
    has_control: bool = True
    """Whether advantages can be shuffled; an algorithm without any has no such control."""

    def passed(self, figures: Figures, *, shuffled: bool) -> bool:
        """Return whether a fit ended as it must: at the target, or, shuffled, no better."""
        if shuffled:
            # A random walk moves the reward a little either way.
            return figures.last < max(figures.first + 0.2, self.target / 2)
        return figures.last >= self.target
