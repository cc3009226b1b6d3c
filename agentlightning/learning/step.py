"""The training step, top to bottom: rows in, one or a few optimiser updates, metrics out.

What it leaves out: sampling, rewards, advantages and weights are done; devices are one; saving
and the schedule are the caller's. The caller also keeps samplers of the same model out meanwhile.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from agentlightning.errors import ConfigurationError, ExplodingGradientError, NonFiniteLossError
from agentlightning.learning.forward import Layout, score_pack
from agentlightning.learning.lora import adapters_disabled
from agentlightning.learning.losses import LossSpec
from agentlightning.learning.objective import StepStatistics, objective
from agentlightning.learning.optimizer import Optimizer
from agentlightning.learning.packing import PackedBatch, pack_rows
from agentlightning.learning.rows import RowBatch, TrainRow

__all__ = [
    "StepConfig",
    "StepOutcome",
    "packs_of",
    "run_step",
    "score_rows",
    "scoring_of",
    "staleness",
    "step_metrics",
    "train_step",
    "update_weights",
    "with_fixed_scores",
]

Stream = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepConfig:
    """How a step is carried out; none of it changes what is learned."""

    max_slots: int = 2048
    """Slots of one forward pass. Memory grows with it; larger passes share more prefixes."""

    recompute_above: int | None = None
    """Passes of more slots keep only what goes between layers, and compute the rest again on the
    way back: about a third more work for a small part of the memory. None never does."""

    layout: Layout = "tree"
    entropy: bool = True
    """Measure the policy's entropy. Costs one more pass over logits that are at hand."""

    def recomputes(self, slots: int) -> bool:
        """Tell whether a pass of so many slots computes its layers again on the way back."""
        return self.recompute_above is not None and slots > self.recompute_above


def train_step(
    model: nn.Module, optimizer: Optimizer, batch: RowBatch, loss: LossSpec, config: StepConfig
) -> dict[str, float]:
    """Learn from a batch.

    Returns:
        Metrics by name, all under `training/`.

    Raises:
        EmptyBatchError: Nothing in the batch can be learned from.
        NonFiniteLossError: Loss or gradient is NaN or infinite; the last update did not happen.
        ExplodingGradientError: The gradient is far too large; the last update did not happen.
    """
    started = perf_counter()
    batch.require_signal()
    outcome = run_step(model, optimizer, batch, loss, config)
    metrics = step_metrics(batch, loss, outcome) | {"training/lr": optimizer.lr}
    return metrics | {"training/seconds": perf_counter() - started}


@dataclass(slots=True)
class StepOutcome:
    """What a step, or one process's part of it, came to."""

    statistics: StepStatistics
    norms: list[float]
    """Norm of the gradient at each update, before clipping."""

    n_slots: int


def run_step(
    model: nn.Module,
    optimizer: Optimizer,
    batch: RowBatch,
    loss: LossSpec,
    config: StepConfig,
    *,
    part: Callable[[RowBatch], RowBatch] = lambda batch: batch,
) -> StepOutcome:
    """Carry out the updates of a step; raises what `train_step` raises.

    Args:
        model: What is trained.
        optimizer: Of it.
        batch: The whole batch, with at least one trained token.
        loss: What to minimise.
        config: How.
        part: This process's share of a mini-batch, where several train together. All of them
            make the same updates.
    """
    statistics, norms, n_slots = StepStatistics(), list[float](), 0
    minis = [part(mini) for mini in batch.split(loss.mini_batches)]
    optimizer.zero_grad()
    with _abandoning(optimizer):
        # Before the first update: the anchor and the reference are the policy as it is now.
        minis = [with_fixed_scores(model, mini, loss, config) for mini in minis]
    for _ in range(loss.epochs):
        for mini in minis:
            with _abandoning(optimizer):
                n_slots += _add_gradient(model, mini, loss, config, statistics)
            norms.append(update_weights(optimizer, mini, statistics))
    return StepOutcome(statistics, norms, n_slots)


@contextmanager
def _abandoning(optimizer: Optimizer) -> Generator[None]:
    """Tell other processes when this one cannot do its part of an update."""
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            optimizer.abandon()


def _add_gradient(
    model: nn.Module,
    mini: RowBatch,
    loss: LossSpec,
    config: StepConfig,
    statistics: StepStatistics,
) -> int:
    """Add the gradient of some rows; returns the slots that it took."""
    n_slots = 0
    for pack in packs_of(mini.rows, config):
        scores = score_pack(model, pack, **scoring_of(pack, mini, loss, config))
        # Weights are shares of the whole batch, so gradients of packs simply add up.
        objective(pack, scores, loss, statistics).backward()
        n_slots += len(pack.ids)
    return n_slots


def scoring_of(
    pack: PackedBatch, mini: RowBatch, loss: LossSpec, config: StepConfig
) -> dict[str, Any]:
    """Return how `score_pack` is to score a pack that is trained, as its keyword arguments."""
    return {
        "layout": config.layout,
        "temperature": mini.temperature,
        "entropy": config.entropy or loss.entropy_coef != 0,
        "entropy_gradient": loss.entropy_coef != 0,
        "recompute": config.recomputes(len(pack.ids)),
    }


def step_metrics(batch: RowBatch, loss: LossSpec, outcome: StepOutcome) -> dict[str, float]:
    """Return what a step tells, by metric name."""
    n_updates = len(outcome.norms)
    return outcome.statistics.metrics() | {
        "training/loss": outcome.statistics.loss / n_updates,
        "training/grad_norm": sum(outcome.norms) / n_updates,
        "training/n_updates": float(n_updates),
        "training/n_rows": float(len(batch)),
        "training/n_tokens": float(batch.n_tokens),
        "training/n_trained_tokens": float(batch.n_trained),
        "training/packing_ratio": loss.epochs * batch.n_tokens / outcome.n_slots,
    }


def update_weights(optimizer: Optimizer, mini: RowBatch, statistics: StepStatistics) -> float:
    """Apply the gradient and return its norm; if refused, tell which rollouts may have caused it.

    Raises:
        NonFiniteLossError: The gradient is NaN or infinite; nothing was updated.
        ExplodingGradientError: It is far too large; nothing was updated.
    """
    try:
        return optimizer.update()
    except (NonFiniteLossError, ExplodingGradientError) as error:
        pulls = [
            (float(np.abs(row.adv.astype(np.float64) * row.weight)[row.mask].max()), row.rollout_id)
            for row in mini.rows
            if row.mask.any()
        ]
        heaviest = ", ".join(f"{name} {pull:.3g}" for pull, name in sorted(pulls, reverse=True)[:3])
        ratio, rollout = statistics.extreme
        raise type(error)(
            f"{error}. Largest ratio {ratio:.3g}, in rollout {rollout!r}; largest advantage times "
            f"weight: {heaviest}"
        ) from error


def staleness(batch: RowBatch, version: int) -> dict[str, float]:
    """Tell how many versions ago the trained tokens were sampled, on average and at most.

    Args:
        batch: The batch; tokens of unknown version do not count.
        version: Version of the weights before the step.
    """
    ages = np.concatenate(
        [version - row.versions[row.mask & (row.versions >= 0)] for row in batch.rows] or [[]]
    )
    if not len(ages):
        return {}
    return {
        "training/staleness_mean": float(ages.mean()),
        "training/staleness_max": float(ages.max()),
    }


def packs_of(rows: tuple[TrainRow, ...], config: StepConfig) -> list[PackedBatch]:
    """Pack rows into forward passes."""
    return pack_rows(rows, max_slots=config.max_slots, share=config.layout == "tree")


def with_fixed_scores(
    model: nn.Module, batch: RowBatch, loss: LossSpec, config: StepConfig
) -> RowBatch:
    """Fill in what must be scored before the first update: the anchor and the reference.

    Raises:
        ConfigurationError: A reference is needed, and no part of the model is frozen.
    """
    rows = batch.rows
    if loss.epochs * loss.mini_batches > 1:
        # With a single update the policy's own scores, detached, are the anchor.
        old = score_rows(model, batch, config)
        rows = tuple(replace(row, logp_old=o) for row, o in zip(rows, old, strict=True))
    if loss.kl_coef and any(row.logp_ref is None for row in rows):
        if all(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigurationError(
                "a KL penalty needs a reference model: train adapters (the reference is the model "
                "without them) or fill in TrainRow.logp_ref"
            )
        with adapters_disabled(model):
            reference = score_rows(model, batch, config)
        rows = tuple(replace(row, logp_ref=r) for row, r in zip(rows, reference, strict=True))
    return RowBatch(rows, batch.temperature)


def score_rows(model: nn.Module, batch: RowBatch, config: StepConfig) -> list[Stream]:
    """Score the trained tokens of every row under the current policy, without a gradient.

    Returns:
        A stream per row, in the batch's order: log-probabilities, NaN where nothing is trained.
    """
    found: dict[int, Stream] = {}
    with torch.no_grad():
        for pack in packs_of(batch.rows, config):
            logp_M = score_pack(
                model, pack, layout=config.layout, temperature=batch.temperature
            ).logp
            logp_K = logp_M.cpu().numpy()[pack.token_pair]
            found |= {
                id(row): stream for row, stream in zip(pack.rows, pack.scatter(logp_K), strict=True)
            }
    nothing = [np.full(len(row.ids), np.nan, dtype=np.float32) for row in batch.rows]
    return [found.get(id(row), empty) for row, empty in zip(batch.rows, nothing, strict=True)]
