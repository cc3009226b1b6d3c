"""Which model call earns which reward, decided by time alone. Pure functions."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Moment", "RewardMatchPolicy", "match_rewards"]


class RewardMatchPolicy(StrEnum):
    """How rewards find their calls."""

    FIRST_SIBLING = "first_sibling"
    """As `FIRST_OCCURRENCE`, but among the direct children of one node only."""
    FIRST_OCCURRENCE = "first_occurrence"
    """A reward goes to the latest call that had ended by then and has none yet."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A call that ended, or a reward that was given, at `time` (unix seconds)."""

    id: str
    time: float
    reward: float | None = None
    """None for a call."""


def match_rewards(moments: Iterable[Moment]) -> dict[str, float]:
    """Return the reward of each call, by id; calls without one are absent.

    Each reward goes to the latest call that ended no later than it, and has no reward yet, so
    that several rewards in a row flow back to earlier calls. A reward that finds every call
    rewarded takes the place of the latest call's: the last word counts, as it does for
    `find_final_reward`. A reward before the first call is left out.
    """
    ordered = sorted(moments, key=lambda moment: (moment.time, moment.reward is not None))
    waiting: list[str] = []
    latest: str | None = None
    rewards: dict[str, float] = {}
    for moment in ordered:
        if moment.reward is None:
            waiting.append(moment.id)
            latest = moment.id
        elif waiting:
            rewards[waiting.pop()] = moment.reward
        elif latest is not None:
            rewards[latest] = moment.reward
    return rewards
