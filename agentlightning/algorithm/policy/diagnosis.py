"""Diagnosis: why a batch cannot teach anything, said before time is wasted on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agentlightning.adapter.diagnosis import diagnose_calls
from agentlightning.errors import EmptyBatchError

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome

__all__ = [
    "check_batch",
    "failure_table",
    "group_rewards",
    "has_signal",
    "mixed_share",
    "signal_warning",
]

_TOLERANCE = 1e-6
"""Rewards of a group that differ by less carry no signal (SkyRL's value)."""

_WANTED_MIXED_SHARE = 1 / 3
"""Below this share of mixed groups, most of the sampling is wasted."""


def group_rewards(outcomes: Sequence[RolloutOutcome]) -> dict[str, list[float]]:
    """Return the scored rewards of each group."""
    groups: dict[str, list[float]] = {}
    for outcome in outcomes:
        members = groups.setdefault(outcome.group_id, [])
        if outcome.reward is not None:
            members.append(outcome.reward)
    return groups


def mixed_share(outcomes: Sequence[RolloutOutcome]) -> float:
    """Return the share of groups whose rewards differ: the only ones that teach anything."""
    groups = group_rewards(outcomes)
    mixed = sum(has_signal(rewards) for rewards in groups.values())
    return mixed / len(groups) if groups else 0.0


def has_signal(rewards: Sequence[float]) -> bool:
    """Return whether the rewards of a group differ, so that they teach something."""
    return bool(rewards) and max(rewards) - min(rewards) > _TOLERANCE


def failure_table(outcomes: Sequence[RolloutOutcome]) -> str:
    """Return one line per class of failure with its count and an example."""
    counts = Counter(o.outcome for o in outcomes if o.outcome != "ok")
    lines: list[str] = []
    for name, count in counts.most_common():
        example = next((o.error for o in outcomes if o.outcome == name and o.error), None)
        lines.append(f"  {count:>4} x {name}" + (f", for example {example}" if example else ""))
    return "\n".join(lines)


def check_batch(outcomes: Sequence[RolloutOutcome], *, max_empty_share: float) -> None:
    """Stop a fit whose rollouts cannot be learnt from.

    Raises:
        EmptyBatchError: All rollouts failed, none was scored, or more than `max_empty_share` of
            them hold no trainable call. The message says what to do.
    """
    total = len(outcomes)
    if all(o.outcome != "ok" for o in outcomes):
        raise EmptyBatchError(
            f"All {total} rollouts of this step failed:\n{failure_table(outcomes)}\n"
            "Run the agent once with Trainer.dev() and fix the first error."
        )
    if all(o.reward is None for o in outcomes):
        raise EmptyBatchError(
            f"None of the {total} rollouts of this step has a reward. Return a number from the "
            "agent, call agentlightning.emit_reward(), or pass reward_fn= to the Trainer."
        )
    empty = [found for o in outcomes if (found := _lack_of_calls(o)) is not None]
    if len(empty) > max_empty_share * total:
        raise EmptyBatchError(
            f"{len(empty)} of {total} rollouts hold no model call that can be trained on:\n"
            f"{_empty_table(empty)}"
        )


def _lack_of_calls(outcome: RolloutOutcome) -> tuple[str, str] | None:
    """Return why a rollout has nothing to train on, as a class and in words, or None."""
    if outcome.outcome != "ok" and not outcome.calls:
        return outcome.outcome, f"failed before its first call ({outcome.outcome})"
    found = outcome.diagnosis or diagnose_calls(outcome.calls, spans=outcome.span_count)
    if found is None or not found.lacks_calls:
        return None
    return found.lacks[0].value, found.message().splitlines()[0]


def _empty_table(empty: Sequence[tuple[str, str]]) -> str:
    """Return one line for each class of reason, with the count and the words of one rollout."""
    words = dict(reversed(empty))
    counts = Counter(name for name, _ in empty)
    return "\n".join(f"  {count:>4} x {words[name]}" for name, count in counts.most_common())


def signal_warning(
    outcomes: Sequence[RolloutOutcome],
    *,
    step: int,
    metrics: Mapping[str, float] | None = None,
    earlier: Sequence[float] = (),
) -> str | None:
    """Return a warning when too little of the batch, or nothing at all, teaches anything.

    There is none where all rollouts have the fit's best reward and it began with less: nothing is
    left to learn then.

    Args:
        outcomes: All rollouts of the step.
        step: Its number, from 1.
        metrics: Those of the step, where the learner says what it trained; without them groups
            of equal rewards are taken to teach nothing.
        earlier: Rewards of the steps before, or their extremes.
    """
    told = metrics or {}
    rewards = [r for members in group_rewards(outcomes).values() for r in members]
    if not rewards:
        return None
    mean = sum(rewards) / len(rewards)
    if earlier and min(earlier) + _TOLERANCE < max(earlier) <= min(rewards) + _TOLERANCE:
        return None
    if told.get("training/n_trained_tokens", 1.0) == 0:
        return _nothing_learnt(step, mean, max(rewards) - min(rewards), told)
    groups = len(group_rewards(outcomes))
    share = mixed_share(outcomes)
    if "training/n_zero_adv_groups" in told:
        share = 1 - told["training/n_zero_adv_groups"] / max(1.0, told["training/n_groups"])
    if share >= _WANTED_MIXED_SHARE:
        return None
    mixed = round(share * groups)
    spread = max(rewards) - min(rewards)
    if spread > _TOLERANCE and mean > (max(rewards) + min(rewards)) / 2:
        # Most groups succeed as a whole: that is what the end of learning looks like.
        return None
    if spread <= _TOLERANCE and mean > 0 and step > 1:
        return None
    return (
        f"Step {step}: only {mixed} of {groups} groups have mixed rewards (mean {mean:.2f}). "
        "A group whose rollouts all get the same reward teaches nothing. Make the task easier, "
        "put examples into the prompt, give partial rewards, or enlarge group_size until at "
        "least a third of the groups are mixed."
    )


def _nothing_learnt(step: int, mean: float, spread: float, told: Mapping[str, float]) -> str:
    tokens = int(told.get("training/n_wasted_tokens", told.get("training/n_sampled_tokens", 0)))
    groups = int(told.get("training/n_groups", 0))
    if told.get("training/n_zero_adv_groups", groups) < groups:
        why = "What groups with different rewards sampled is masked or belongs to untrained roles."
    elif spread > _TOLERANCE:
        why = "Rewards differ between groups but not within any. Enlarge group_size."
    else:
        why = (
            f"Every rollout got {mean:.2f}. If that is the best there is, the tasks are solved; "
            "if not, make them easier, give partial rewards, or enlarge group_size."
        )
    return (
        f"Step {step}: nothing was learnt, none of {groups} groups carries a signal, and {tokens} "
        f"sampled tokens were wasted. {why}"
    )
