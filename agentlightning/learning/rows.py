"""Training rows: the one data structure between the token tree and a train backend.

A row is a sequence of token ids with parallel streams; index `t` of each stream describes token
`ids[t]`, whose log-probability is conditioned on `ids[:t]`. The algorithm decides advantage and
weight, the backend multiplies. Plain numpy; validated once, when built.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agentlightning.errors import EmptyBatchError, TrainingError

__all__ = ["RowBatch", "TrainRow"]

LOGP_SLACK = 1e-3
"""Engines round; a log-probability may exceed 0 by this much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """One sequence to learn from.

    Raises:
        TrainingError: A stream has another length than `ids`, or holds impossible values.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    """True on the tokens to train. Never on index 0, which nothing predicts."""

    logp_rollout: NDArray[np.float32]
    """Log-probability of each token when it was sampled. NaN on a trained token means unknown:
    the trainer's own value, before the step, stands in."""

    adv: NDArray[np.float32]
    weight: NDArray[np.float32]
    """Share of each token in the batch's loss; see `weights`."""

    versions: NDArray[np.int32]
    """Weight version that sampled each token, -1 where none did or it is unknown."""

    rollout_id: str = ""
    group_id: str = ""
    role: str = ""
    call_ids: tuple[str, ...] = ()
    logp_old: NDArray[np.float32] | None = None
    """Trainer log-probabilities before the step; a backend fills it in where it needs them."""

    logp_ref: NDArray[np.float32] | None = None
    """Log-probabilities under the reference model; a backend fills it in for a KL penalty."""

    returns: NDArray[np.float32] | None = None
    """What a critic is to predict before each trained token; only for a critic's step."""

    values: NDArray[np.float32] | None = None
    """What the critic predicted there when the step began; only for a critic's step."""

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise TrainingError(f"row of rollout {self.rollout_id!r}: {problem}")

    def _problem(self) -> str | None:
        n = len(self.ids)
        streams = (self.mask, self.logp_rollout, self.adv, self.weight, self.versions)
        if n == 0 or any(stream.shape != (n,) for stream in streams):
            shapes = [stream.shape for stream in streams]
            return f"streams must have the length of ids ({n}, not 0), not {shapes}"
        if self.mask[0]:
            return "mask[0] is set, but nothing predicts the first token"
        if not np.isfinite(self.adv[self.mask]).all():
            return "an advantage is NaN or infinite"
        weight = self.weight[self.mask]
        if not (np.isfinite(weight).all() and (weight >= 0).all()):
            return "a weight is negative, NaN or infinite"
        logp = self.logp_rollout[self.mask]
        if np.isinf(logp).any() or (logp > LOGP_SLACK).any():
            return "a rollout log-probability is positive or infinite"
        return None

    @property
    def n_trained(self) -> int:
        """Tokens with a gradient."""
        return int(self.mask.sum())


@dataclass(frozen=True, slots=True)
class RowBatch:
    """The rows of one training step, with weights that are shares of the whole batch."""

    rows: tuple[TrainRow, ...]
    temperature: float = 1.0
    """Sampling temperature of the rollouts. The trainer divides logits by it, so that its ratios
    are exact; 0 (greedy) is treated as 1."""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[TrainRow]:
        return iter(self.rows)

    @property
    def n_tokens(self) -> int:
        """Tokens of all rows, context included and shared prefixes counted each time."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def n_trained(self) -> int:
        """Tokens with a gradient."""
        return sum(row.n_trained for row in self.rows)

    @property
    def oldest_version(self) -> int | None:
        """Smallest known weight version among the trained tokens."""
        versions = [row.versions[row.mask & (row.versions >= 0)] for row in self.rows]
        return min((int(v.min()) for v in versions if len(v)), default=None)

    def require_signal(self) -> None:
        """Check that a step on this batch can change anything.

        Raises:
            EmptyBatchError: No row has a trained token.
        """
        if self.n_trained == 0:
            raise EmptyBatchError(
                f"none of the batch's {len(self.rows)} rows has a trained token: check that the "
                "model calls were captured with token ids and that some group's rewards differ"
            )

    def split(self, parts: int) -> list["RowBatch"]:
        """Cut into at most `parts` mini-batches of whole groups, with about equal token counts.

        Weights are scaled by the number of parts, so that a step on each has the size of a step
        on the whole.
        """
        sizes: dict[str, int] = {}
        for row in self.rows:
            sizes[row.group_id] = sizes.get(row.group_id, 0) + row.n_trained
        bins = _balance(sizes, parts)
        scale = np.float32(len(bins))
        batches: list[RowBatch] = []
        for groups in bins:
            rows = [_scaled(row, scale) for row in self.rows if row.group_id in groups]
            batches.append(RowBatch(tuple(rows), self.temperature))
        return batches


def _balance(sizes: dict[str, int], parts: int) -> list[set[str]]:
    """Distribute groups, largest first, each to the bin with the fewest tokens."""
    bins: list[set[str]] = [set() for _ in range(max(1, min(parts, len(sizes))))]
    loads = [0] * len(bins)
    for group in sorted(sizes, key=lambda g: (-sizes[g], g)):
        lightest = loads.index(min(loads))
        bins[lightest].add(group)
        loads[lightest] += sizes[group]
    return bins


def _scaled(row: TrainRow, scale: np.float32) -> TrainRow:
    return replace(row, weight=row.weight * scale)
