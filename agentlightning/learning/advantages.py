"""Advantages: how much better than expected each rollout was.

An estimator maps the rewards of a batch of rollouts to one advantage per **rollout**; rows and
tokens inherit it later (`batch`), so a rollout counts once however many model calls it made.
Pure numpy in float64: no torch, no state, no knowledge of tokens beyond their number.

Rules that hold for every estimator
- A reward of NaN means "not scored". Such a rollout is left out of every mean and deviation and
  gets advantage 0; it is not a reward of 0.
- A group of two or more scored rollouts whose rewards differ by less than `tolerance` carries no
  signal: its advantages are exactly 0 and `zero_signal` marks its rollouts.
- Where a group has one scored member there is no group to compare with: the estimators that
  compare within the group use `fallback` (a running baseline of the task source) in its place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from agentlightning.errors import ComponentNotFoundError, ConfigurationError, TrainingError

__all__ = [
    "AdvantageOptions",
    "Advantages",
    "Scores",
    "advantage_names",
    "estimate_advantages",
    "normalised_sum",
    "register_advantage",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Scale = Literal["none", "group", "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageOptions:
    """The choices that estimators share; each reads those it needs."""

    scale: Scale = "none"
    """Divide by nothing (Dr.GRPO, arXiv:2503.20783), by the group's or by the batch's deviation."""

    eps: float = 1e-6
    """Added to a deviation before dividing by it."""

    tolerance: float = 1e-6
    """A group whose rewards span less than this carries no signal."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The rewards of a batch of rollouts, indexed `_B`, with what estimators compare them by."""

    reward: Floats
    group: NDArray[np.int64]
    """Group number of each rollout, 0 to n_groups - 1."""

    length: Floats
    """Trained tokens of each rollout."""

    fallback: Floats
    """Baseline for a rollout that is the only scored one of its group."""

    @classmethod
    def of(
        cls,
        rewards: Sequence[float] | Floats,
        groups: Sequence[object],
        *,
        lengths: Sequence[int] | None = None,
        fallback: Sequence[float] | None = None,
    ) -> "Scores":
        """Check and convert plain sequences of equal length, one entry per rollout.

        Args:
            rewards: Scalar rewards; NaN marks a rollout that was not scored.
            groups: Group identifiers (any hashable), equal for the rollouts of one task.
            lengths: Trained tokens per rollout; one each when left out.
            fallback: Baselines for single-member groups; 0 when left out.

        Raises:
            TrainingError: Lengths differ, or a reward is infinite.
        """
        reward_B = np.asarray(rewards, dtype=np.float64)
        n = len(reward_B)
        length_B = np.ones(n) if lengths is None else np.asarray(lengths, dtype=np.float64)
        fallback_B = np.zeros(n) if fallback is None else np.asarray(fallback, dtype=np.float64)
        if not n == len(groups) == len(length_B) == len(fallback_B):
            raise TrainingError(
                f"rewards ({n}), groups ({len(groups)}), lengths ({len(length_B)}) and fallback "
                f"({len(fallback_B)}) must have one entry per rollout"
            )
        if np.isinf(reward_B).any():
            raise TrainingError("a reward is infinite; clip rewards, or use NaN for 'not scored'")
        numbers: dict[object, int] = {}
        group_B = np.array([numbers.setdefault(g, len(numbers)) for g in groups], dtype=np.int64)
        return cls(reward_B, group_B, length_B, fallback_B)

    @property
    def scored(self) -> Bools:
        """Which rollouts have a reward."""
        return ~np.isnan(self.reward)

    def group_sum(self, values_B: Floats) -> Floats:
        """Sum `values_B` over the scored members of each group; returned per rollout."""
        kept_B = np.where(self.scored, values_B, 0.0)
        sums_G = np.bincount(self.group, weights=kept_B).astype(np.float64)
        return sums_G[self.group]

    @property
    def size(self) -> Floats:
        """Scored members in each rollout's group."""
        return self.group_sum(np.ones_like(self.reward))

    def group_mean(self) -> Floats:
        """Mean reward of each rollout's group, over its scored members (0 when there are none)."""
        return self.group_sum(self.reward) / np.maximum(self.size, 1.0)

    def group_std(self) -> Floats:
        """Unbiased deviation of each rollout's group; 1 when it has fewer than two members."""
        size_B = self.size
        squares_B = self.group_sum((self.reward - self.group_mean()) ** 2)
        return np.where(size_B > 1, np.sqrt(squares_B / np.maximum(size_B - 1, 1.0)), 1.0)

    def centred(self, baseline_B: Floats) -> Floats:
        """Subtract `baseline_B`, or the fallback where a rollout has no group to compare with."""
        return self.reward - np.where(self.size > 1, baseline_B, self.fallback)


@dataclass(frozen=True, slots=True)
class Advantages:
    """What an estimator found, one entry per rollout."""

    value: Floats
    zero_signal: Bools
    """Members of groups whose rewards were all equal: nothing to learn from them."""

    scored: Bools


class Estimator(Protocol):
    """Turns scores into raw advantages; NaN is allowed where the reward is NaN."""

    def __call__(self, scores: Scores, options: AdvantageOptions, /) -> Floats: ...


class _Entry(NamedTuple):
    estimator: Estimator
    grouped: bool


_ESTIMATORS: dict[str, _Entry] = {}


def register_advantage(name: str, *, grouped: bool = True) -> Callable[[Estimator], Estimator]:
    """Register an estimator under `name`, replacing an earlier one of that name.

    Args:
        name: What users write to choose it.
        grouped: Whether it compares rewards within a group only. If not, a group of equal
            rewards still carries a signal, and only a batch of equal rewards does not.

    Example:
        >>> @register_advantage("raw-reward", grouped=False)
        ... def raw_reward(scores, options):
        ...     return scores.reward
        >>> estimate_advantages("raw-reward", Scores.of([1.0, 0.0], ["a", "a"])).value.tolist()
        [1.0, 0.0]
    """

    def register(estimator: Estimator) -> Estimator:
        _ESTIMATORS[name] = _Entry(estimator, grouped)
        return estimator

    return register


def advantage_names() -> list[str]:
    """Return the registered estimators' names, sorted."""
    return sorted(_ESTIMATORS)


def estimate_advantages(
    name: str, scores: Scores, options: AdvantageOptions | None = None
) -> Advantages:
    """Estimate advantages with the estimator called `name`.

    Raises:
        ComponentNotFoundError: No estimator has that name.
        TrainingError: The estimator gave NaN or infinity for a scored rollout.
    """
    if name not in _ESTIMATORS:
        raise ComponentNotFoundError(
            f"no advantage estimator called {name!r}; known: {', '.join(advantage_names())}"
        )
    options = options or AdvantageOptions()
    entry = _ESTIMATORS[name]
    raw_B = entry.estimator(scores, options)
    scored_B = scores.scored
    peers = scores if entry.grouped else replace(scores, group=np.zeros_like(scores.group))
    zero_signal_B = scored_B & (peers.size > 1) & (_spread(peers) < options.tolerance)
    value_B = np.where(scored_B & ~zero_signal_B, raw_B, 0.0)
    if not np.isfinite(value_B).all():
        raise TrainingError(f"advantage estimator {name!r} returned NaN or infinity")
    return Advantages(value_B, zero_signal_B, scored_B)


def normalised_sum(
    dimensions: Sequence[Mapping[str, float]],
    weights: Mapping[str, float],
    scores: Scores,
    options: AdvantageOptions | None = None,
) -> Advantages:
    """Normalise each reward dimension within its group, add them up, normalise over the batch.

    `z_k = (R_k - mean_group) / (std_group + eps)`, `s = sum_k w_k z_k`,
    `A = (s - mean_batch) / (std_batch + eps)` (GDPO, arXiv:2601.05242): a dimension counts by its
    weight, however large its numbers are. A rollout without one of the dimensions is left out of
    that dimension's comparison.

    Args:
        dimensions: For each rollout, its reward by dimension.
        weights: Factor of each dimension that counts.
        scores: Rewards and groups of the same rollouts; a NaN reward means "not scored".
        options: `eps` and `tolerance` are used.
    """
    options = options or AdvantageOptions()
    total_B, alive_B = np.zeros(len(dimensions)), np.zeros(len(dimensions), dtype=np.bool_)
    for name, weight in weights.items():
        values_B = np.array([each.get(name, np.nan) for each in dimensions], dtype=np.float64)
        own = replace(scores, reward=np.where(scores.scored, values_B, np.nan))
        compared_B = own.scored & (own.size > 1) & (_spread(own) >= options.tolerance)
        z_B = (own.reward - own.group_mean()) / (own.group_std() + options.eps)
        total_B += np.where(compared_B, weight * z_B, 0.0)
        alive_B |= compared_B
    scored_B, summed = scores.scored, total_B[alive_B]
    if len(summed) > 1:
        total_B = (total_B - summed.mean()) / (summed.std(ddof=1) + options.eps)
    zero_signal_B = scored_B & ~alive_B
    return Advantages(np.where(alive_B, total_B, 0.0), zero_signal_B, scored_B)


def _spread(scores: Scores) -> Floats:
    """Largest minus smallest reward of each rollout's group."""
    n_groups = int(scores.group.max(initial=-1)) + 1
    high_G, low_G = np.full(n_groups, -np.inf), np.full(n_groups, np.inf)
    scored_B = scores.scored
    np.maximum.at(high_G, scores.group[scored_B], scores.reward[scored_B])
    np.minimum.at(low_G, scores.group[scored_B], scores.reward[scored_B])
    return (high_G - low_G)[scores.group]


def _batch_std(scores: Scores) -> float:
    rewards = scores.reward[scores.scored]
    return float(rewards.std(ddof=1)) if len(rewards) > 1 else 1.0


@register_advantage("group")
def group(scores: Scores, options: AdvantageOptions) -> Floats:
    """GRPO: reward minus the group's mean, over a deviation if asked (arXiv:2402.03300).

    `scale="none"` is Dr.GRPO's advantage, `"batch"` the ScaleRL variant (arXiv:2510.13786).
    """
    centred_B = scores.centred(scores.group_mean())
    if options.scale == "none":
        return centred_B
    if options.scale == "group":
        return centred_B / (scores.group_std() + options.eps)
    if options.scale == "batch":
        return centred_B / (_batch_std(scores) + options.eps)
    raise ConfigurationError(f"scale must be none, group or batch, not {options.scale!r}")


@register_advantage("reward", grouped=False)
def reward(scores: Scores, options: AdvantageOptions) -> Floats:  # noqa: ARG001 - protocol
    """REINFORCE without a baseline: the reward as it is."""
    return scores.reward


@register_advantage("rloo")
def rloo(scores: Scores, options: AdvantageOptions) -> Floats:  # noqa: ARG001 - protocol
    """Leave-one-out baseline: reward minus the mean of the *other* members (arXiv:2402.14740)."""
    others_B = np.maximum(scores.size - 1, 1.0)
    return scores.centred((scores.group_sum(scores.reward) - scores.reward) / others_B)


@register_advantage("opo")
def opo(scores: Scores, options: AdvantageOptions) -> Floats:  # noqa: ARG001 - protocol
    """Length-weighted optimal baseline: sum of length times reward over sum of length (OPO)."""
    weighted_B = scores.group_sum(scores.length * scores.reward)
    return scores.centred(weighted_B / np.maximum(scores.group_sum(scores.length), 1.0))


@register_advantage("maxrl")
def maxrl(scores: Scores, options: AdvantageOptions) -> Floats:
    """Centred reward over the group's mean, which favours hard tasks (arXiv:2602.02710)."""
    mean_B = scores.group_mean()
    if (mean_B[scores.scored] < 0).any():
        raise TrainingError("maxrl divides by the mean reward: rewards must not be negative")
    return scores.centred(mean_B) / np.maximum(mean_B, options.eps)


def _whiten(values_B: Floats, scores: Scores) -> Floats:
    """Whiten over tokens: each rollout counts once for every token it trained."""
    scored_B = scores.scored
    values, lengths = values_B[scored_B], scores.length[scored_B]
    total = lengths.sum()
    if total <= 1:
        return values_B - (values.mean() if len(values) else 0.0)
    mean = (lengths * values).sum() / total
    variance = (lengths * (values - mean) ** 2).sum() / (total - 1)
    return (values_B - mean) / np.sqrt(variance + 1e-8)


@register_advantage("reinforce_plus_plus", grouped=False)
def reinforce_plus_plus(scores: Scores, options: AdvantageOptions) -> Floats:  # noqa: ARG001 - protocol
    """REINFORCE++ at discount 1: rewards whitened over the batch's tokens (arXiv:2501.03262)."""
    return _whiten(scores.reward, scores)


@register_advantage("reinforce_plus_plus_baseline")
def reinforce_plus_plus_baseline(scores: Scores, options: AdvantageOptions) -> Floats:  # noqa: ARG001 - protocol
    """REINFORCE++ with the group's mean as baseline, whitened over the batch's tokens."""
    return _whiten(scores.centred(scores.group_mean()), scores)
