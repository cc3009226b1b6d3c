"""A random Llama of a few thousand parameters, and rows to train it on."""

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agentlightning.learning.rows import RowBatch, TrainRow

VOCABULARY = 40


def tiny_llama(*, seed=0, dtype=torch.float32, tie=False):
    """Weights are drawn wide, so that attention and logits are far from uniform."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.25,
        tie_word_embeddings=tie,
        max_position_embeddings=256,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def row(ids, trained, *, adv=1.0, weight=None, logp=None, rollout="ro", group="g", versions=None):
    """A row that trains the positions `trained`."""
    ids = np.asarray(ids, dtype=np.int32)
    mask = np.zeros(len(ids), dtype=bool)
    mask[list(trained)] = True
    logps = np.zeros(len(ids), dtype=np.float32)
    logps[mask] = np.nan if logp is None else logp
    share = 1.0 / max(1, mask.sum()) if weight is None else weight
    return TrainRow(
        ids=ids,
        mask=mask,
        logp_rollout=logps,
        adv=mask * np.float32(adv),
        weight=mask * np.float32(share),
        versions=np.full(len(ids), -1, dtype=np.int32) if versions is None else versions,
        rollout_id=rollout,
        group_id=group,
    )


def random_rows(seed=0, *, groups=2, members=3):
    """Groups with a common system prompt and a prompt each; members sample two turns."""
    rng = np.random.default_rng(seed)
    rows, system = [], rng.integers(0, VOCABULARY, 5)
    for g in range(groups):
        prompt = np.concatenate([system, rng.integers(0, VOCABULARY, 6)])
        for m in range(members):
            turn, tool, last = (rng.integers(0, VOCABULARY, int(rng.integers(2, 5))) for _ in "abc")
            ids = np.concatenate([prompt, turn, tool, last])
            first = range(len(prompt), len(prompt) + len(turn))
            second = range(len(prompt) + len(turn) + len(tool), len(ids))
            rows.append(
                row(
                    ids,
                    [*first, *second],
                    adv=float(rng.normal()),
                    weight=float(rng.uniform(0.05, 0.2)),
                    rollout=f"ro-{g}-{m}",
                    group=f"g-{g}",
                )
            )
    return rows


def plain_logp(model, one, temperature=1.0):
    """Log-probabilities of a row's trained tokens from an ordinary forward pass."""
    ids = torch.from_numpy(one.ids.astype(np.int64))[None]
    logits = model(ids).logits[0].float() / temperature
    logp = logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
    return logp[np.flatnonzero(one.mask) - 1]


def batch_of(rows, temperature=1.0):
    return RowBatch(tuple(rows), temperature)


def visible(pack):
    """The attention mask `[N, N]` of a pack: True where a slot is an ancestor or itself."""
    n = len(pack.ids)
    mask = np.eye(n, dtype=bool)
    for slot in range(n):
        if pack.parent[slot] >= 0:
            mask[slot] |= mask[pack.parent[slot]]
    return mask
