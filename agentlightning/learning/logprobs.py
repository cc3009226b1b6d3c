"""Log-probabilities of chosen tokens, without ever holding logits for all of them.

A vocabulary of 50,000 entries makes the logits of a batch larger than the model, so the output
head runs over chunks of positions. For a frozen head the gradient with respect to the hidden
state is finished on the way forward, one matrix product fewer than computing logits twice; for a
trained head each chunk is computed again on the way back.

Softmax is taken in fp32 over logits in the model's dtype, as the sampling engine does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

__all__ = ["TokenScores", "score_tokens"]

CHUNK_LOGITS = 1 << 23
"""Logits held at once: 32 MiB in fp32, a few times over."""


class TokenScores(NamedTuple):
    """Per (hidden state, token) pair, in fp32, indexed `_M`."""

    logp: Tensor
    entropy: Tensor | None
    """Entropy of the distribution the token was drawn from, where asked for."""


def score_tokens(
    hidden_MD: Tensor,
    target_M: Tensor,
    head: nn.Module,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
    entropy_gradient: bool = False,
) -> TokenScores:
    """Score one token per hidden state.

    Args:
        hidden_MD: Final hidden states, after the last norm.
        target_M: Token ids.
        head: The model's output embedding.
        temperature: What logits are divided by.
        softcap: Final soft cap of the logits, where the model has one.
        entropy: Whether to compute entropies too.
        entropy_gradient: Whether they take part in the gradient.
    """
    # Why: a subclass of Linear, such as an adapter, has a forward of its own.
    frozen = type(head) is nn.Linear and not head.weight.requires_grad
    frozen = frozen and "bias" not in dict(head.named_parameters())
    size = max(1, CHUNK_LOGITS // int(_rows(head)))
    pieces = zip(hidden_MD.split(size), target_M.split(size), strict=True)
    if frozen and softcap is None and not entropy_gradient:
        scored = [_FrozenHead.apply(h, head.weight, t, temperature, entropy) for h, t in pieces]
    else:

        def logits_of(h: Tensor) -> Tensor:
            logits = head(h).float()
            logits = logits if softcap is None else torch.tanh(logits / softcap) * softcap
            return logits / temperature

        scored = [
            checkpoint(_score, logits_of, h, t, entropy, entropy_gradient, use_reentrant=False)
            for h, t in pieces
        ]
    logps, entropies = zip(*scored, strict=True) if scored else ((), ())  # pyright: ignore[reportGeneralTypeIssues]  # checkpoint and apply are untyped
    empty = hidden_MD.new_zeros(0, dtype=torch.float32)
    return TokenScores(
        torch.cat(logps) if logps else empty,
        (torch.cat(entropies) if entropies else empty) if entropy else None,
    )


def _rows(head: nn.Module) -> int:
    weight = getattr(head, "weight", None)
    return len(weight) if isinstance(weight, Tensor) else 1 << 16


def _score(
    logits_of: Callable[[Tensor], Tensor],
    hidden_MD: Tensor,
    target_M: Tensor,
    entropy: bool,
    entropy_gradient: bool,
) -> tuple[Tensor, Tensor]:
    logp_MV = logits_of(hidden_MD).log_softmax(-1)
    logp_M = logp_MV.gather(1, target_M[:, None]).squeeze(1)
    entropy_M = logp_M.new_zeros(len(logp_M))
    if entropy:
        known_MV = logp_MV if entropy_gradient else logp_MV.detach()
        entropy_M = -torch.linalg.vecdot(known_MV.exp(), known_MV)
    return logp_M, entropy_M


class _FrozenHead(torch.autograd.Function):
    """Log-probabilities under a head that is not trained.

    `d logp / d hidden = (W[target] - sum_v p_v W[v]) / temperature` does not depend on what comes
    later, so it is computed while the probabilities are at hand.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        target_M: Tensor,
        temperature: float,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        logits_MV = functional.linear(hidden_MD, weight_VD).float()
        if temperature != 1.0:
            logits_MV /= temperature
        picked_M = logits_MV.gather(1, target_M[:, None]).squeeze(1)
        norm_M = logits_MV.logsumexp(-1)
        entropy_M = torch.zeros_like(norm_M)
        if entropy or ctx.needs_input_grad[0]:
            prob_MV = (logits_MV - norm_M[:, None]).exp_()
            if entropy:
                entropy_M = norm_M - torch.linalg.vecdot(prob_MV, logits_MV)
            if ctx.needs_input_grad[0]:
                mean_MD = prob_MV.to(weight_VD.dtype) @ weight_VD
                ctx.save_for_backward((weight_VD[target_M] - mean_MD) / temperature)
        ctx.mark_non_differentiable(entropy_M)
        return picked_M - norm_M, entropy_M

    @staticmethod
    def backward(ctx: Any, grad_M: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]  # the base is untyped
        (unit_MD,) = ctx.saved_tensors
        return (grad_M[:, None] * unit_MD).to(unit_MD.dtype), None, None, None, None
