"""Scores of chosen tokens, chunk by chunk."""

import pytest
import torch
from torch import nn

from agentlightning.learning import logprobs
from agentlightning.learning.logprobs import score_tokens

HIDDEN = torch.linspace(-2, 2, 7 * 6).view(7, 6)
TARGET = torch.tensor([0, 3, 9, 9, 1, 4, 2])


def head(*, frozen, bias=False):
    torch.manual_seed(0)
    return nn.Linear(6, 10, bias=bias).requires_grad_(requires_grad=not frozen)


@pytest.mark.parametrize("chunk", [1, 25, 1 << 20])
@pytest.mark.parametrize(("frozen", "bias"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_scores_and_gradients_equal_a_plain_softmax(monkeypatch, chunk, frozen, bias, softcap):
    """Every way of chunking and every kind of head gives the plain values and gradients."""
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", chunk)
    layer, hidden = head(frozen=frozen, bias=bias), HIDDEN.clone().requires_grad_()
    logits = layer(hidden)
    logits = logits if softcap is None else torch.tanh(logits / softcap) * softcap
    want = (logits / 0.7).log_softmax(-1)
    picked = want.gather(1, TARGET[:, None]).squeeze(1)
    got = score_tokens(hidden, TARGET, layer, temperature=0.7, softcap=softcap, entropy=True)
    leaves = [hidden, *(p for p in layer.parameters() if p.requires_grad)]
    weight = torch.arange(7.0)
    assert torch.allclose(got.logp, picked, atol=1e-5)
    assert torch.allclose(got.entropy, -(want.exp() * want).sum(-1), atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad((got.logp * weight).sum(), leaves),
        torch.autograd.grad((picked * weight).sum(), leaves),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert score_tokens(hidden, TARGET, layer).entropy is None


def test_half_precision_heads_score_in_full_precision():
    """Scores come in fp32, from logits in the head's own precision."""
    layer = head(frozen=True).bfloat16()
    got = score_tokens(HIDDEN.bfloat16(), TARGET, layer).logp
    want = layer(HIDDEN.bfloat16()).float().log_softmax(-1).gather(1, TARGET[:, None]).squeeze(1)
    assert got.dtype == torch.float32
    assert torch.allclose(got, want, atol=1e-6)
