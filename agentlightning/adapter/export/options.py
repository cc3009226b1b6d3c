"""What to export: which rollouts count, and how they are compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentlightning.errors import ConfigurationError
from agentlightning.types.rollout import RolloutMode, RolloutStatus

__all__ = ["ExportOptions"]

_ENDED: tuple[RolloutStatus, ...] = ("succeeded", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Filters and selections; the defaults take all that succeeded.

    Raises:
        ConfigurationError: A value is out of range, or contradicts another.
    """

    statuses: tuple[RolloutStatus, ...] = ("succeeded",)
    """`succeeded`, `failed` or both; rollouts that are under way are never exported."""
    modes: tuple[RolloutMode, ...] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Only rollouts whose metadata holds all of these pairs, such as `run_id`."""
    agents: str | None = None
    """Regular expression searched in the names of agents; None takes all."""
    reward_name: str | None = None
    """Which dimension of the rewards counts; None takes the primary one."""
    min_reward: float | None = None
    max_reward: float | None = None
    best_of_group: int | None = None
    """Keep so many rollouts of each group, those with the highest rewards."""
    per_call: bool = False
    """See `samples_of`; formats of pairs compare conversations, and refuse this."""
    pairs: Literal["best-worst", "all"] = "best-worst"
    """Preferences: one pair per group, or every two rollouts whose rewards differ."""
    min_margin: float = 0.0
    """Preferences: rewards of a pair differ by more than this."""
    threshold: float | None = None
    """Labels: rewards from here on are good; None takes the mean of the group."""

    def __post_init__(self) -> None:
        unknown = [status for status in self.statuses if status not in _ENDED]
        if unknown or not self.statuses:
            raise ConfigurationError(f"statuses holds {unknown}: use some of {list(_ENDED)}.")
        if self.best_of_group is not None and self.best_of_group < 1:
            raise ConfigurationError(f"best_of_group is {self.best_of_group}: use 1 or more.")
        if self.min_margin < 0:
            raise ConfigurationError(f"min_margin is {self.min_margin}: use 0 or more.")
        if self.pairs not in {"best-worst", "all"}:
            raise ConfigurationError(f"pairs is {self.pairs!r}: use 'best-worst' or 'all'.")
        try:
            re.compile(self.agents or "")
        except re.error as error:
            raise ConfigurationError(f"agents is no regular expression: {error}") from error
