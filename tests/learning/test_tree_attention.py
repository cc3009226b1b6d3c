"""Block attention over a trie equals attention under the dense mask."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from agentlightning.errors import TrainingError
from agentlightning.learning import tree_attention as module
from agentlightning.learning.packing import PackedBatch, pack_rows
from agentlightning.learning.tree_attention import tree_attention, tree_blocks
from tests.learning.tiny import row, visible


def pack_of(seed=0, *, rows=12, length=90):
    """Rows that share prefixes of many lengths, over several blocks."""
    rng = np.random.default_rng(seed)
    stem = rng.integers(0, 9, length)
    made = []
    for _ in range(rows):
        keep = int(rng.integers(1, length))
        tail = rng.integers(0, 9, int(rng.integers(1, length)))
        ids = np.concatenate([stem[:keep], tail])
        made.append(row(ids, [len(ids) - 1]))
    (pack,) = pack_rows(made, max_slots=1 << 16)
    return pack


@pytest.mark.parametrize("scores", [1, 1 << 13, 1 << 20])
def test_values_and_gradients_equal_dense_attention(monkeypatch, scores):
    """Whatever number of blocks is computed together, results are those of the dense mask."""
    monkeypatch.setattr(module, "CHUNK_SCORES", scores)
    pack = pack_of()
    blocks = tree_blocks(pack, torch.device("cpu"))
    assert (len(blocks.chunks) > 1) == (scores < 1 << 20)
    n = len(pack.ids)
    torch.manual_seed(0)
    inputs = [torch.randn(h, n, 8, dtype=torch.float64, requires_grad=True) for h in (4, 2, 2)]
    probe = torch.randn(4, n, 8, dtype=torch.float64)
    got = tree_attention(*inputs, blocks, scale=0.3)
    want = functional.scaled_dot_product_attention(
        *(t[None] for t in inputs),
        attn_mask=torch.from_numpy(visible(pack)),
        scale=0.3,
        enable_gqa=True,
    )[0]
    assert torch.allclose(got, want, atol=1e-6)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, probe),
        torch.autograd.grad(want, inputs, probe),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_slots_out_of_order_are_refused():
    """A layout that is not depth-first raises instead of attending wrongly."""
    n = 80
    parent = np.arange(-1, n - 1)
    position = np.arange(n)
    # A second root where the second block starts, and below it a child of the first root's path.
    parent[64], position[64:] = -1, np.arange(16)
    parent[72], position[72:] = 40, np.arange(41, 49)
    empty = np.zeros(0, dtype=np.int64)
    bad = PackedBatch(
        ids=np.zeros(n, dtype=np.int64),
        position=position,
        parent=parent,
        head_slot=empty,
        head_target=empty,
        token_pair=empty,
        token_row=empty,
        rows=(),
    )
    with pytest.raises(TrainingError, match="depth-first"):
        tree_blocks(bad, torch.device("cpu"))
