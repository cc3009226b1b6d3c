"""The weight stream: every way of averaging a loss, as one number per row.

A training step minimises `sum(weight * loss)` over the trained tokens, and nothing else divides.
The denominators here are those of the whole batch, so the gradient does not depend on how rows
are cut into micro-batches or spread over ranks, nor on how often a rollout forked.
Pure numpy: works on counts, never on tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from agentlightning.errors import ConfigurationError, TrainingError

__all__ = ["Aggregate", "Shares", "row_weights"]

Aggregate = Literal[
    "rollout_mean",
    "token_mean",
    "prompt_mean",
    "seq_mean_token_mean",
    "seq_mean_token_sum",
    "seq_mean_token_sum_norm",
    "dr_grpo",
]

NEEDS_LENGTH: frozenset[str] = frozenset({"seq_mean_token_sum_norm", "dr_grpo"})
"""Aggregates that divide by a constant length."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Whose tokens they are: one entry per row (`_R`)."""

    tokens: NDArray[np.int64]
    """Trained tokens of each row."""

    rollout: NDArray[np.int64]
    group: NDArray[np.int64]

    @classmethod
    def of(
        cls, tokens: Sequence[int], rollouts: Sequence[object], groups: Sequence[object]
    ) -> "Shares":
        """Number the identifiers and check that there is one entry per row."""
        if not len(tokens) == len(rollouts) == len(groups):
            raise TrainingError("tokens, rollouts and groups must have one entry per row")
        return cls(np.asarray(tokens, dtype=np.int64), _numbers(rollouts), _numbers(groups))


def _numbers(identifiers: Sequence[object]) -> NDArray[np.int64]:
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(i, len(seen)) for i in identifiers], dtype=np.int64)


def row_weights(
    aggregate: Aggregate, shares: Shares, *, length: float | None = None
) -> NDArray[np.float64]:
    """Return the weight of each trained token of each row.

    With `T` the trained tokens of a row, rollout (`T_i`), group (`T_g`) or batch, and `N` the
    number of rows, rollouts or groups that have trained tokens:

    | aggregate | weight of a token |
    |---|---|
    | `rollout_mean` | 1 / (T_i N_rollouts) |
    | `token_mean` | 1 / T (DAPO, arXiv:2503.14476) |
    | `prompt_mean` | 1 / (T_g N_groups) |
    | `seq_mean_token_mean` | 1 / (T_row N_rows) |
    | `seq_mean_token_sum` | 1 / N_rows |
    | `seq_mean_token_sum_norm` | 1 / (N_rows length) |
    | `dr_grpo` | 1 / (N_rollouts length) (arXiv:2503.20783) |

    Args:
        aggregate: Which average the weighted sum is to equal.
        shares: Token counts and owners of the whole batch, all ranks and micro-batches together.
        length: The constant of the last two, in tokens: usually the longest allowed response.

    Returns:
        One weight per row; 0 for a row with nothing to train.

    Raises:
        ConfigurationError: The aggregate is unknown, or needs a `length` that is missing.
    """
    if aggregate not in get_args(Aggregate):
        raise ConfigurationError(
            f"unknown aggregate {aggregate!r}; choose one of {', '.join(get_args(Aggregate))}"
        )
    if aggregate in NEEDS_LENGTH and (length is None or length <= 0):
        raise ConfigurationError(f"aggregate {aggregate!r} needs a positive `length` in tokens")
    tokens_R = shares.tokens.astype(np.float64)
    live_R = tokens_R > 0
    denominator_R = _denominator(aggregate, shares, tokens_R, live_R, length or 1.0)
    return np.where(live_R, 1.0 / np.maximum(denominator_R, 1e-300), 0.0)


def _denominator(
    aggregate: Aggregate,
    shares: Shares,
    tokens_R: NDArray[np.float64],
    live_R: NDArray[np.bool_],
    length: float,
) -> NDArray[np.float64]:
    n_rows = float(live_R.sum())
    n_rollouts = float(len(np.unique(shares.rollout[live_R])))
    n_groups = float(len(np.unique(shares.group[live_R])))
    one_R = np.ones_like(tokens_R)

    def owned(owner_R: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.bincount(owner_R, weights=tokens_R).astype(np.float64)[owner_R]

    return {
        "rollout_mean": owned(shares.rollout) * n_rollouts,
        "token_mean": one_R * tokens_R.sum(),
        "prompt_mean": owned(shares.group) * n_groups,
        "seq_mean_token_mean": tokens_R * n_rows,
        "seq_mean_token_sum": one_R * n_rows,
        "seq_mean_token_sum_norm": one_R * n_rows * length,
        "dr_grpo": one_R * n_rollouts * length,
    }[aggregate]
