"""Choosing among samples: by reward, by rank in their group, in pairs. Pure functions."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agentlightning.adapter.content import Members
from agentlightning.adapter.export.options import ExportOptions
from agentlightning.adapter.export.sample import Sample

__all__ = ["Preference", "labelled", "preferences", "wanted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Two ways on from one prompt, of which one earned more."""

    prompt: list[Members]
    chosen: list[Members]
    """Begins with an answer of the model, which differs from the first of `rejected`."""
    rejected: list[Members]
    chosen_from: Sample
    rejected_from: Sample


def wanted(
    samples: Iterable[Sample], options: ExportOptions, skipped: Counter[str]
) -> list[Sample]:
    """Return the samples that the options take, in their order, and count the others by why."""
    kept: list[Sample] = []
    for sample in samples:
        reason = _refusal(sample, options)
        if reason is None:
            kept.append(sample)
        else:
            skipped[reason] += 1
    if options.best_of_group is None:
        return kept
    best = _best(kept, options.best_of_group)
    chosen = [sample for sample in kept if sample.rollout_id in best]
    skipped["not among the best of their group"] += len(kept) - len(chosen)
    return chosen


def _refusal(sample: Sample, options: ExportOptions) -> str | None:
    reward = sample.reward
    if options.agents is not None and re.search(options.agents, sample.agent or "") is None:
        return "of another agent"
    limits = (options.min_reward, options.max_reward, options.best_of_group)
    if reward is None:
        return None if limits == (None, None, None) else "without a reward"
    if options.min_reward is not None and reward < options.min_reward:
        return "reward too low"
    if options.max_reward is not None and reward > options.max_reward:
        return "reward too high"
    return None


def _best(samples: Iterable[Sample], count: int) -> set[str]:
    best: set[str] = set()
    for members in _groups(samples).values():
        ranked = sorted(members.values(), key=lambda rollout: -(rollout[0].reward or 0.0))
        best.update(rollout[0].rollout_id for rollout in ranked[:count])
    return best


def _groups(samples: Iterable[Sample]) -> dict[str, dict[str, list[Sample]]]:
    """Return the samples by group, then by rollout."""
    groups: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        rollouts = groups.setdefault(sample.group_id, {})
        rollouts.setdefault(sample.rollout_id, []).append(sample)
    return groups


def labelled(
    samples: Sequence[Sample], options: ExportOptions, skipped: Counter[str]
) -> Iterator[tuple[Sample, bool]]:
    """Yield each sample with whether it is good, judged by threshold or by its group's mean.

    In a group whose rollouts all earned the same, nothing is better than the mean: without a
    threshold it is left out.
    """
    for members in _groups(samples).values():
        rewards = [rollout[0].reward for rollout in members.values()]
        known = [reward for reward in rewards if reward is not None]
        mean = sum(known) / len(known) if known else 0.0
        bound = mean if options.threshold is None else options.threshold
        is_flat = options.threshold is None and (not known or min(known) == max(known))
        for sample in itertools.chain.from_iterable(members.values()):
            if sample.reward is None:
                skipped["without a reward"] += 1
            elif is_flat:
                skipped["of a group with equal rewards"] += 1
            else:
                yield sample, sample.reward >= bound


def preferences(
    samples: Iterable[Sample], options: ExportOptions, skipped: Counter[str]
) -> Iterator[Preference]:
    """Yield pairs of samples of one group and one agent, cut where the model's answers part.

    Two conversations make a pair if they have the same tools and are the same up to answers of
    the model. Where users or tools said different things first, the difference is not the
    model's doing.
    """
    for members in _groups(samples).values():
        rated = [rollout for rollout in members.values() if rollout[0].reward is not None]
        skipped["without a reward"] += len(members) - len(rated)
        ranked = sorted(rated, key=lambda rollout: -(rollout[0].reward or 0.0))
        pairs = list(itertools.combinations(ranked, 2))
        if options.pairs == "best-worst":
            pairs = [(ranked[0], ranked[-1])] if len(ranked) > 1 else []
            skipped["alone in their group"] += len(ranked) == 1
        for better, worse in pairs:
            margin = (better[0].reward or 0.0) - (worse[0].reward or 0.0)
            if margin <= options.min_margin:
                skipped["pairs with too small a margin"] += 1
                continue
            found = list(_pairs_of(better, worse))
            skipped["pairs that do not part at an answer"] += not found
            yield from found


def _pairs_of(better: Sequence[Sample], worse: Sequence[Sample]) -> Iterator[Preference]:
    """Yield, for each conversation of the better rollout, its pair with the nearest worse one."""
    seen: set[str] = set()
    for chosen in better:
        candidates = [each for each in worse if _is_comparable(chosen, each)]
        candidates = [each for each in candidates if _parts_at_answer(chosen, each)]
        if not candidates:
            continue
        rejected = max(candidates, key=lambda each: _common(chosen, each))
        at = _common(chosen, rejected)
        pair = Preference(
            prompt=chosen.messages[:at],
            chosen=chosen.messages[at:],
            rejected=rejected.messages[at:],
            chosen_from=chosen,
            rejected_from=rejected,
        )
        key = json.dumps([pair.prompt, pair.chosen, pair.rejected], sort_keys=True)
        if key not in seen:
            seen.add(key)
            yield pair


def _is_comparable(one: Sample, other: Sample) -> bool:
    return one.agent == other.agent and one.tools == other.tools


def _parts_at_answer(one: Sample, other: Sample) -> bool:
    at = _common(one, other)
    return at > 0 and at in one.sampled and at in other.sampled


def _common(one: Sample, other: Sample) -> int:
    """Return how many messages both begin with; what was thought counts for answers only."""
    together = zip(one.messages, other.messages, strict=False)
    equal = itertools.takewhile(lambda pair: _said(pair[0]) == _said(pair[1]), together)
    return sum(1 for _ in equal)


def _said(message: Members) -> Members:
    """Return a message without the ids of its calls, which differ from sample to sample."""
    kept = {key: value for key, value in message.items() if key != "tool_call_id"}
    if "tool_calls" in kept:
        kept["tool_calls"] = [call["function"] for call in kept["tool_calls"]]
    return kept
