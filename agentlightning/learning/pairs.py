"""From rewards to comparisons: which answers of a group are better than which, and which are good.

Pure functions of rewards and groups; an answer without a reward (NaN) is compared with none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal, get_args

from agentlightning.errors import ConfigurationError

__all__ = ["PairChoice", "labels", "pairs"]

PairChoice = Literal["best_worst", "all"]

_TOLERANCE = 1e-6
"""Rewards that differ by less are equal."""


def pairs(
    rewards: Sequence[float],
    groups: Sequence[object],
    *,
    choice: PairChoice = "best_worst",
    min_margin: float = 0.0,
) -> list[tuple[int, int]]:
    """Return pairs (better, worse) of places within groups.

    Args:
        rewards: One for each answer; NaN for none.
        groups: The group of each answer; only members of one are compared.
        choice: One pair of each group, the best and the worst; or all pairs.
        min_margin: Least difference of rewards; equal rewards never make a pair.

    Raises:
        ConfigurationError: There is no such choice.

    Example:
        >>> pairs([0.0, 1.0, 0.5], ["a", "a", "a"], choice="all", min_margin=0.6)
        [(1, 0)]
    """
    if choice not in get_args(PairChoice):
        known = ", ".join(get_args(PairChoice))
        raise ConfigurationError(f"pairs={choice!r} is not one of {known}.")
    found: list[tuple[int, int]] = []
    for members in _members(rewards, groups):
        ranked = sorted(members, key=lambda place: -rewards[place])
        candidates = (
            [(ranked[0], ranked[-1])] if choice == "best_worst" else combinations(ranked, 2)
        )
        found += [
            (better, worse)
            for better, worse in candidates
            if rewards[better] - rewards[worse] >= max(min_margin, _TOLERANCE)
        ]
    return found


def labels(
    rewards: Sequence[float], groups: Sequence[object], *, threshold: float | None = None
) -> dict[int, bool]:
    """Return which answers are good and which bad, by place.

    Args:
        rewards: One for each answer; NaN for none.
        groups: The group of each answer.
        threshold: Least reward of a good answer. None: good is above the mean of the group and bad
            below it, and one that equals it is neither.

    Example:
        >>> labels([0.0, 1.0, 0.5], ["a", "a", "a"])
        {0: False, 1: True}
    """
    found: dict[int, bool] = {}
    for members in _members(rewards, groups):
        mean = sum(rewards[place] for place in members) / len(members)
        for place in members:
            if threshold is not None:
                found[place] = rewards[place] >= threshold
            elif abs(rewards[place] - mean) > _TOLERANCE:
                found[place] = rewards[place] > mean
    return found


def _members(rewards: Sequence[float], groups: Sequence[object]) -> Iterable[list[int]]:
    found: dict[object, list[int]] = {}
    for place, (reward, group) in enumerate(zip(rewards, groups, strict=True)):
        if not math.isnan(reward):
            found.setdefault(group, []).append(place)
    return found.values()
