"""When a step may be sampled, and which of its groups are still fresh enough to train: pure rules.

One rule makes every schedule: step `s` is sampled once `s - bound` steps are done. With bound 0
sampling and training take turns, with 1 a step is sampled while the one before is trained, with n
the run is asynchronous, and never by more than n steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentlightning.algorithm.policy.diagnosis import group_rewards, has_signal

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome

__all__ = ["Admission", "admit", "groups_to_start", "oldest_version", "open_steps", "signal_groups"]


def open_steps(*, done: int, total: int, bound: int) -> range:
    """Return the steps that may be sampled or trained when so many are done.

    Args:
        done: Steps trained.
        total: Steps of the whole run.
        bound: How many steps sampling may be ahead.

    Example:
        >>> list(open_steps(done=3, total=10, bound=2))
        [3, 4, 5]
    """
    return range(done, min(done + bound + 1, total))


def groups_to_start(wanted: int, oversample: float) -> int:
    """Return how many groups to start where so many are wanted.

    Example:
        >>> groups_to_start(4, 1.2)
        5
    """
    return math.ceil(round(wanted * oversample, 6))


def oldest_version(outcomes: Sequence[RolloutOutcome]) -> int | None:
    """Return the version that sampled the oldest trained token; None where none is known."""
    versions = [
        span.version
        for outcome in outcomes
        for call in outcome.calls
        if call.trained and call.outcome == "ok"
        for choice in call.choices
        for span in choice.versions
        if span.length and span.version >= 0
    ]
    return min(versions, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What of a step may be trained."""

    outcomes: tuple[RolloutOutcome, ...]
    """Of whole groups, in their order."""
    stale_groups: tuple[str, ...]
    """Groups that were left out."""


def admit(outcomes: Sequence[RolloutOutcome], *, version: int, bound: int) -> Admission:
    """Leave out the groups whose oldest trained token is more than `bound` versions old.

    Groups stay whole: a rollout that is fresh goes with the others, whose rewards its own is
    compared with.

    Args:
        outcomes: The rollouts of a step.
        version: Version of the weights that are about to be trained.
        bound: Largest age, in versions.
    """
    groups: dict[str, list[RolloutOutcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.group_id, []).append(outcome)
    stale = {
        name
        for name, members in groups.items()
        if (oldest := oldest_version(members)) is not None and version - oldest > bound
    }
    return Admission(
        outcomes=tuple(each for each in outcomes if each.group_id not in stale),
        stale_groups=tuple(name for name in groups if name in stale),
    )


def signal_groups(outcomes: Sequence[RolloutOutcome]) -> int:
    """Return how many groups hold rewards that differ, so that they teach something."""
    return sum(has_signal(rewards) for rewards in group_rewards(outcomes).values())
