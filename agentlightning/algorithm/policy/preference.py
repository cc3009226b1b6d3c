"""The learner of DPO and KTO: compare answers, score them twice, and take an ordinary step.

The gradient of a preference loss is the sum of its slopes times the gradients of the answers'
log-probabilities. So policy and reference score the answers first, a pure function gives loss and
slopes, and the step is one with the `linear` loss, whose advantages are the slopes: it is packed
and cut into micro-batches like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from agentlightning.algorithm.policy.answer_batch import LEFT_OUT, AnswerRows, read_rows
from agentlightning.learning.losses import LossSpec
from agentlightning.learning.pairs import labels, pairs
from agentlightning.learning.preference import PairScores, dpo_loss, kto_loss

if TYPE_CHECKING:
    from agentlightning.algorithm.dpo import DPOConfig
    from agentlightning.algorithm.kto import KTOConfig
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.preference_config import PreferenceConfig
    from agentlightning.learning.rows import RowBatch

__all__ = ["Comparison", "Labels", "Pairs", "PreferenceGradient"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Answers that are compared, by place among all of a step."""

    policy: Mapping[int, float]
    """Log-probability of each answer: the sum over its trained tokens, in whatever rows."""
    reference: Mapping[int, float]
    tokens: Mapping[int, int]
    reference_point: float
    """Distance of policy and reference, for KTO."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a comparison makes of scores."""

    loss: float
    slopes: Mapping[int, float]
    """Derivative of the loss by each answer's log-probability."""
    metrics: dict[str, float]
    """By the last parts of their names."""


class Comparison(Protocol):
    """Which answers of a step are compared; made anew for each step."""

    @property
    def places(self) -> Sequence[int]:
        """Return the answers that take part."""
        ...

    def judge(self, scored: Scored) -> Judged:
        """Return the loss and its slopes."""
        ...


class PreferenceGradient:
    """Learns from comparisons of answers."""

    def __init__(self, config: PreferenceConfig, policy: Policy) -> None:
        """Learn for `policy` under `config`."""
        self._config = config
        self._compare = config.compare
        self._mismatched = config.needs_mismatched
        self._policy = policy

    async def learn(self, outcomes: Sequence[RolloutOutcome], *, step: int) -> dict[str, float]:
        answers, comparison = self._read(outcomes)
        batch, metrics = self._batch(answers, comparison)
        metrics["training/n_compared"] = float(len(comparison.places))
        if not batch.n_trained:
            return metrics
        scores = _Scores(self._policy, answers, batch, mismatched=self._mismatched)
        await scores.fix_reference()
        for _ in range(self._config.update_epochs):
            judged = comparison.judge(await scores.take())
            trained = await self._policy.train(
                scores.with_slopes(judged.slopes), LossSpec(name="linear")
            )
            metrics |= trained | {f"training/{name}": x for name, x in judged.metrics.items()}
            metrics["training/loss"] = judged.loss
        return metrics

    async def measure(self, outcomes: Sequence[RolloutOutcome]) -> dict[str, float]:
        answers, comparison = self._read(outcomes)
        batch, _ = self._batch(answers, comparison)
        scores = _Scores(self._policy, answers, batch, mismatched=self._mismatched)
        await scores.fix_reference()
        judged = comparison.judge(await scores.take())
        return {"val/loss": judged.loss} | {f"val/{name}": x for name, x in judged.metrics.items()}

    def _read(self, outcomes: Sequence[RolloutOutcome]) -> tuple[AnswerRows, Comparison]:
        answers = read_rows(outcomes, roles=self._config.trained_roles, decode=self._policy.decode)
        return answers, self._compare(answers.rewards, answers.groups)

    def _batch(
        self, answers: AnswerRows, comparison: Comparison
    ) -> tuple[RowBatch, dict[str, float]]:
        used = set(comparison.places)
        given = [0.0 if place in used else LEFT_OUT for place in range(len(answers.outcomes))]
        return answers.batch(
            given,
            aggregate="seq_mean_token_sum",
            temperature=self._config.answer_temperature,
        )


class _Scores:
    """Scores the rows of one batch, and hands slopes to them."""

    def __init__(
        self, policy: Policy, answers: AnswerRows, batch: RowBatch, *, mismatched: bool
    ) -> None:
        self._policy = policy
        self._batch = batch
        places = {each.rollout_id: place for place, each in enumerate(answers.outcomes)}
        self._owners = [places[row.rollout_id] for row in batch]
        self._others = mismatched_rows(batch) if mismatched else None
        self._reference: Mapping[int, float] = {}
        self._reference_other: Floats = np.zeros(0)

    async def fix_reference(self) -> None:
        """Score under the model as it was before training."""
        self._reference = self._sums(await self._logps(self._batch, reference=True))
        if self._others is not None:
            self._reference_other = await self._logps(self._others, reference=True)

    async def take(self) -> Scored:
        """Score under the policy as it is."""
        policy = self._sums(await self._logps(self._batch))
        if self._others is None:
            gaps = np.array([policy[place] - self._reference[place] for place in policy])
        else:
            gaps = await self._logps(self._others) - self._reference_other
        sizes: dict[int, int] = {}
        for place, row in zip(self._owners, self._batch, strict=True):
            sizes[place] = sizes.get(place, 0) + row.n_trained
        return Scored(
            policy=policy,
            reference=self._reference,
            tokens=sizes,
            reference_point=max(0.0, float(gaps.mean())),
        )

    def with_slopes(self, slopes: Mapping[int, float]) -> RowBatch:
        """Return the batch whose `linear` loss has the gradient of these slopes."""
        rows = [
            # The row's weight is its share; the slope is of the loss as a whole.
            replace(
                row,
                adv=np.where(row.mask, -slopes[place], 0.0).astype(np.float32),
                weight=row.mask.astype(np.float32),
            )
            for place, row in zip(self._owners, self._batch, strict=True)
        ]
        return replace(self._batch, rows=tuple(rows))

    async def _logps(self, batch: RowBatch, *, reference: bool = False) -> Floats:
        streams = await self._policy.logprobs(batch, reference=reference)
        return np.array(
            [
                stream[row.mask].sum(dtype=np.float64)
                for row, stream in zip(batch, streams, strict=True)
            ]
        )

    def _sums(self, of_rows: Floats) -> dict[int, float]:
        found: dict[int, float] = {}
        for place, logp in zip(self._owners, of_rows, strict=True):
            found[place] = found.get(place, 0.0) + float(logp)
        return found


def mismatched_rows(batch: RowBatch) -> RowBatch:
    """Return a batch of the same prompts with one another's answers.

    What the policy has not been asked about tells how far it has moved altogether: the reference
    point of arXiv:2402.01306, section 4.1.
    """
    rows = batch.rows
    starts = [int(np.flatnonzero(row.mask)[0]) for row in rows]
    others = [(place + 1) % len(rows) for place in range(len(rows))]
    return replace(
        batch,
        rows=tuple(
            replace(
                row,
                **{
                    name: np.concatenate(
                        [getattr(row, name)[: starts[place]], getattr(rows[o], name)[starts[o] :]]
                    )
                    for name in ("ids", "mask", "logp_rollout", "adv", "weight", "versions")
                },
            )
            for place, (row, o) in enumerate(zip(rows, others, strict=True))
        ),
    )


class Pairs:
    """Better and worse answers of groups, for DPO."""

    def __init__(
        self, config: DPOConfig, rewards: Sequence[float], groups: Sequence[object]
    ) -> None:
        """Choose the pairs that `config` asks for."""
        self._config = config
        self._pairs = pairs(rewards, groups, choice=config.pairs, min_margin=config.min_margin)

    @property
    def places(self) -> Sequence[int]:
        return sorted({place for pair in self._pairs for place in pair})

    def judge(self, scored: Scored) -> Judged:
        better, worse = [pair[0] for pair in self._pairs], [pair[1] for pair in self._pairs]
        scores = PairScores(
            chosen=_of(scored.policy, better),
            rejected=_of(scored.policy, worse),
            reference_chosen=_of(scored.reference, better),
            reference_rejected=_of(scored.reference, worse),
            chosen_tokens=_of(scored.tokens, better),
            rejected_tokens=_of(scored.tokens, worse),
        )
        found = dpo_loss(
            scores,
            beta=self._config.beta,
            kind=self._config.loss,
            label_smoothing=self._config.label_smoothing,
        )
        slopes: dict[int, float] = {}
        for places, of_pairs in ((better, found.chosen_slope), (worse, found.rejected_slope)):
            for place, slope in zip(places, of_pairs, strict=True):
                slopes[place] = slopes.get(place, 0.0) + float(slope) / len(self._pairs)
        margins = found.chosen_reward - found.rejected_reward
        return Judged(
            loss=float(found.value.mean()),
            slopes=slopes,
            metrics={
                "n_pairs": float(len(self._pairs)),
                "rewards/chosen": float(found.chosen_reward.mean()),
                "rewards/rejected": float(found.rejected_reward.mean()),
                "rewards/margins": float(margins.mean()),
                "rewards/accuracies": float((margins > 0).mean()),
                "logps/chosen": float(scores.chosen.mean()),
                "logps/rejected": float(scores.rejected.mean()),
            },
        )


class Labels:
    """Good and bad answers, for KTO."""

    def __init__(
        self, config: KTOConfig, rewards: Sequence[float], groups: Sequence[object]
    ) -> None:
        """Label what `config` tells apart."""
        self._config = config
        self._labels = labels(rewards, groups, threshold=config.least_good)

    @property
    def places(self) -> Sequence[int]:
        return sorted(self._labels)

    def judge(self, scored: Scored) -> Judged:
        config, places = self._config, self.places
        logps, good = _of(scored.policy, places), np.array([self._labels[p] for p in places])
        point = 0.0 if config.reference_point == "zero" else scored.reference_point
        found = kto_loss(
            logps,
            _of(scored.reference, places),
            good,
            beta=config.beta,
            reference_point=point,
            good_weight=config.good_weight,
            bad_weight=config.bad_weight,
        )
        metrics = {"n_good": float(good.sum()), "n_bad": float((~good).sum()), "kl_point": point}
        means: dict[str, float] = {}
        for name, chosen in (("chosen", good), ("rejected", ~good)):
            if chosen.any():
                means[name] = float(found.reward[chosen].mean())
                metrics[f"rewards/{name}"] = means[name]
                metrics[f"logps/{name}"] = float(logps[chosen].mean())
        if len(means) > 1:
            metrics["rewards/margins"] = means["chosen"] - means["rejected"]
        metrics["rewards/accuracies"] = float(((found.reward > config.beta * point) == good).mean())
        return Judged(
            loss=float(found.value.mean()),
            slopes=dict(zip(places, (found.slope / len(places)).tolist(), strict=True)),
            metrics=metrics,
        )


def _of(values: Mapping[int, float], places: Sequence[int]) -> Floats:
    return np.array([values[place] for place in places], dtype=np.float64)
