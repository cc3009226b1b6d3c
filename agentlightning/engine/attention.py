"""Attention of new tokens over what the cache holds.

Shapes: B row, K key/value head, Q query (new tokens times the query heads of one key/value head), T
column, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["attend"]

_FEW_QUERIES = 16


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Return the attention's output, [B, K, Q, D].

    Args:
        queries: Queries; those of one key/value head side by side.
        keys: [B, K, T, D].
        values: [B, K, T, D].
        mask: Additive, [B, 1, Q, T].
        scale: Factor of the scores.
    """
    # Perf: for a few queries in bf16 torch's CPU kernel takes two to three times as long as two
    # products of matrices, if these lie in memory without gaps. Log-probabilities lie as far from
    # the trainer's either way (rms 0.046 and 0.049 on SmolLM2-135M, as bf16 has it).
    if (
        queries.device.type == "cpu"
        and queries.dtype == torch.bfloat16
        and queries.shape[2] <= _FEW_QUERIES
        and keys.is_contiguous()
        and values.is_contiguous()
    ):
        scores = torch.bmm(queries.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2))
        scores = scores.float().mul_(scale).unflatten(0, queries.shape[:2]).add_(mask)
        weights = scores.softmax(-1).to(values.dtype)
        return torch.bmm(weights.flatten(0, 1), values.flatten(0, 1)).view_as(queries)
    return functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, scale=scale
    )
