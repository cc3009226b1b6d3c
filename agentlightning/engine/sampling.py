"""Drawing tokens: what a request may ask for, and one vectorised draw for a whole batch.

Pure functions over logits; which rows exist and what happens to a token is the sampler's
business. Shapes: B row, V vocabulary, N block of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Draw", "SamplingParams", "derive_seed", "draw_tokens", "uniforms"]

_BLOCK = 256
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample one completion."""

    max_tokens: int | None = None
    """Most tokens to sample, the end-of-sequence token included; None: what the context holds."""
    temperature: float = 1.0
    """0 takes the most likely token; its log-probability is then told at temperature 1."""
    top_p: float = 1.0
    top_k: int = 0
    """0 or less keeps the whole vocabulary."""
    seed: int | None = None
    """With a seed the random numbers depend on nothing but it and the token's index. Equal logits
    then give equal tokens whoever shares the batch; logits themselves may differ in the last bits
    between batches, more so in bf16."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end the completion beside the model's own; they are part of it."""
    ignore_eos: bool = False
    top_logprobs: int = 0
    """How many of the likeliest tokens to tell for every position."""

    @property
    def restricted(self) -> bool:
        """Tell whether the distribution is cut to a part of the vocabulary."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0)


@dataclass(frozen=True, slots=True)
class Draw:
    """One sampled token per row, on the CPU."""

    tokens: list[int]
    logprobs: list[float]
    """Natural logarithms under the distribution that was drawn from."""
    top_tokens: list[list[int]]
    """Per row the likeliest tokens in order; empty lists when nobody asked."""
    top_logprobs: list[list[float]]


def derive_seed(seed: int, index: int) -> int:
    """Return the seed of completion `index` of a request, a 64-bit number."""
    mixed = _mix(np.array([seed % 2**64], dtype=np.uint64) ^ _mix(np.array([index], np.uint64)))
    return int(mixed[0])


def uniforms(seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return one number of [0, 1) per row, a pure function of seed and step.

    SplitMix64 (Steele, Lea, Flood 2014) used as a counter-based generator: no state, so rows may
    join, leave and change places. Both arguments are uint64[B]; the result is float64[B].
    """
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(seeds) + steps.astype(np.uint64) * _GOLDEN)
    # 48 bits keep u * total strictly below total in double precision.
    return (mixed >> np.uint64(16)).astype(np.float64) * 2.0**-48


def _mix(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = values + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def draw_tokens(
    logits: torch.Tensor, params: Sequence[SamplingParams], numbers: np.ndarray
) -> Draw:
    """Draw a token for every row by inverting its distribution function.

    Args:
        logits: Raw logits of any float type, [B, V]; not changed.
        params: One per row.
        numbers: One number of [0, 1) per row.
    """
    if logits.device.type == "mps":
        # Apple's GPUs have no double precision; their memory is ours, so the copy is short.
        logits = logits.cpu()
    scaled = _scale(logits, params)
    _restrict(scaled, params)
    weights = scaled.softmax(dim=1)
    cdf = _pad(weights, 0.0).view(len(params), -1, _BLOCK).sum(-1).double().cumsum_(-1)
    total = cdf[:, -1:]
    u = torch.from_numpy(numbers).to(logits.device).unsqueeze(1)
    tokens = _invert(weights, cdf, u * total)
    greedy = [index for index, row in enumerate(params) if row.temperature == 0]
    if greedy:
        tokens[greedy] = weights[greedy].argmax(dim=1, keepdim=True)
    # Two rows of doubles, which hold every token id exactly: one copy from the device.
    drawn = torch.stack([tokens.double(), weights.gather(1, tokens).double().log() - total.log()])
    (ids, logprobs) = drawn.squeeze(2).tolist()
    top_tokens: list[list[int]] = [[] for _ in params]
    top_logprobs: list[list[float]] = [[] for _ in params]
    most = max(row.top_logprobs for row in params)
    if most:
        top = scaled.topk(most, dim=1)
        top_tokens = top.indices.tolist()
        top_logprobs = (top.values - scaled.logsumexp(1, keepdim=True)).tolist()
    return Draw([int(token) for token in ids], logprobs, top_tokens, top_logprobs)


def _scale(logits: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Return a fp32 copy of the logits divided by each row's temperature (greedy: by 1)."""
    scaled = logits.to(torch.float32, copy=True)
    temperatures = [row.temperature or 1.0 for row in params]
    if any(value != 1.0 for value in temperatures):
        scaled.div_(torch.tensor(temperatures, device=scaled.device).unsqueeze(1))
    return scaled


def _restrict(scaled: torch.Tensor, params: Sequence[SamplingParams]) -> None:
    """Send tokens outside top-k, then outside top-p of what remains, to minus infinity."""
    for index, row in enumerate(params):
        if not row.restricted:
            continue
        descending, order = scaled[index].sort(descending=True, stable=True)
        keep = torch.ones_like(descending, dtype=torch.bool)
        if 0 < row.top_k < len(descending):
            keep[row.top_k :] = False
        if row.top_p < 1:
            kept = descending.masked_fill(~keep, -torch.inf).softmax(0)
            # A token stays if those before it fall short of top_p; the first always stays.
            keep[1:] &= kept.cumsum(0)[:-1] < row.top_p
        scaled[index, order[~keep]] = -torch.inf


def _invert(weights: torch.Tensor, cdf: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the first token whose cumulative weight exceeds the target, int64[B, 1].

    Perf: searching a block of 256 first avoids a cumulative sum in double precision over the
    vocabulary, which costs more than the softmax itself.
    """
    block = (cdf > target).int().argmax(1, keepdim=True)
    before = torch.where(block > 0, cdf.gather(1, (block - 1).clamp_min(0)), 0.0)
    columns = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = columns < weights.shape[1]
    part = weights.gather(1, columns.clamp_max(weights.shape[1] - 1)) * inside
    part_cdf = part.double().cumsum(1) + before
    over = (part_cdf > target) & (part > 0)
    # The block's sum was rounded to fp32, so the target may lie a hair above all of its tokens:
    # then the last token with any weight is the right one.
    last = (
        (part > 0)
        .int()
        .mul(torch.arange(1, _BLOCK + 1, device=part.device))
        .argmax(1, keepdim=True)
    )
    chosen = torch.where(over.any(1, keepdim=True), over.int().argmax(1, keepdim=True), last)
    return block * _BLOCK + chosen


def _pad(weights: torch.Tensor, value: float) -> torch.Tensor:
    missing = -weights.shape[1] % _BLOCK
    return torch.nn.functional.pad(weights, (0, missing), value=value) if missing else weights
