"""One forward pass over packed rows: from a `PackedBatch` to scores of its trained tokens.

Knows how Hugging Face decoders are called, and nothing about losses. Two layouts give the same
numbers: `tree` runs all slots as one sequence under a tree attention mask; `rows` pads rows into
an ordinary batch, for models whose attention is not a plain causal one.
"""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlightning.errors import ConfigurationError
from agentlightning.learning.activations import kept_bytes, recomputing_layers
from agentlightning.learning.logprobs import TokenScores, score_tokens
from agentlightning.learning.packing import PackedBatch, pack_rows
from agentlightning.learning.rows import TrainRow
from agentlightning.learning.tree_attention import tree_blocks, using_tree_attention

__all__ = [
    "Layout",
    "activation_bytes",
    "check_head",
    "choose_layout",
    "hidden_states",
    "score_pack",
]

Layout = Literal["tree", "rows"]


def score_pack(
    model: nn.Module,
    pack: PackedBatch,
    *,
    layout: Layout,
    temperature: float = 1.0,
    entropy: bool = False,
    entropy_gradient: bool = False,
    recompute: bool = False,
) -> TokenScores:
    """Score the distinct trained tokens of a pack.

    Args:
        model: A causal language model of transformers, with or without adapters.
        pack: Packed rows. With layout `rows` they must have been packed without sharing.
        layout: How slots are arranged.
        temperature: Sampling temperature; 0 counts as 1.
        entropy: Whether to compute entropies.
        entropy_gradient: Whether they take part in the gradient.
        recompute: Whether layers are computed again on the way back, to keep less in memory.

    Returns:
        Scores per pair (`[M]`); index them with `pack.token_pair` for the trained tokens.
    """
    hidden_ND = hidden_states(model, pack, layout=layout, recompute=recompute)
    slot_M = _on_device(model, pack.head_slot)
    return score_tokens(
        hidden_ND.index_select(0, slot_M),
        _on_device(model, pack.head_target),
        cast("Any", model).get_output_embeddings(),
        temperature=temperature or 1.0,
        softcap=getattr(cast("Any", model).config, "final_logit_softcapping", None),
        entropy=entropy,
        entropy_gradient=entropy_gradient,
    )


def hidden_states(
    model: nn.Module, pack: PackedBatch, *, layout: Layout, recompute: bool = False
) -> Tensor:
    """Return the final hidden state of each slot of a pack, `[N, D]`, after the last norm.

    Args:
        model: A causal language model of transformers, or the decoder of one.
        pack: As for `score_pack`.
        layout: Likewise.
        recompute: Likewise.
    """
    run = _tree_hidden if layout == "tree" else _rows_hidden
    return run(model, pack, recompute=recompute)


def _decoder(model: nn.Module) -> Any:
    return cast("Any", model).get_decoder()


def _on_device(model: nn.Module, values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values).to(next(model.parameters()).device)


def _tree_hidden(model: nn.Module, pack: PackedBatch, *, recompute: bool = False) -> Tensor:
    decoder = _decoder(model)
    blocks = tree_blocks(pack, next(model.parameters()).device)

    def attending() -> AbstractContextManager[None]:
        return using_tree_attention(decoder.config, blocks)

    with ExitStack() as stack:
        stack.enter_context(attending())
        if recompute:
            stack.enter_context(recomputing_layers(decoder, attending))
        output = decoder(
            input_ids=_on_device(model, pack.ids)[None],
            position_ids=_on_device(model, pack.position)[None],
            use_cache=False,
        )
    return output.last_hidden_state[0]


def _rows_hidden(model: nn.Module, pack: PackedBatch, *, recompute: bool = False) -> Tensor:
    """Run the rows right-padded, and give hidden states back in slot order."""
    starts = np.flatnonzero(pack.parent < 0)
    row_N = np.cumsum(pack.parent < 0) - 1
    shape = (len(starts), int(pack.position.max()) + 1)
    ids_BT, real_BT = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    ids_BT[row_N, pack.position] = pack.ids
    real_BT[row_N, pack.position] = 1
    decoder = _decoder(model)
    with recomputing_layers(decoder) if recompute else nullcontext():
        output = decoder(
            input_ids=_on_device(model, ids_BT),
            attention_mask=_on_device(model, real_BT),
            use_cache=False,
        )
    index_N = _on_device(model, row_N * shape[1] + pack.position)
    return output.last_hidden_state.flatten(0, 1).index_select(0, index_N)


def activation_bytes(model: nn.Module, layout: Layout) -> float:
    """Measure how many bytes each slot of a forward pass keeps for the way back.

    Call it when it is settled what is trained.
    """
    (pack,) = pack_rows(_probe_rows(model)[:1], max_slots=1 << 16, share=False)
    kept = kept_bytes(model, lambda: hidden_states(model, pack, layout=layout))
    return kept / len(pack.ids)


def choose_layout(model: nn.Module) -> Layout:
    """Return `tree` if the model's attention obeys a tree mask, else `rows`.

    Looks at the configuration for sliding windows and recurrent layers, then compares the hidden
    states of two short made-up rows, packed, with those of each row alone.
    """
    config = cast("Any", model).config
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) if kinds is None else None
    capped = getattr(config, "attn_logit_softcapping", None)
    if window or capped or any(kind != "full_attention" for kind in kinds or ()):
        return "rows"
    rows = _probe_rows(model)
    (pack,) = pack_rows(rows, max_slots=1 << 16)
    with torch.no_grad():
        packed_ND = _tree_hidden(model, pack)
        index = torch.from_numpy(pack.head_slot[pack.token_pair])
        alone = [_alone(model, row).last_hidden_state[0] for row in pack.rows]
    expected_KD = torch.cat(
        [hidden[np.flatnonzero(r.mask) - 1] for hidden, r in zip(alone, pack.rows, strict=True)]
    )
    error = (packed_ND[index.to(packed_ND.device)] - expected_KD).float().norm()
    return "tree" if error < 0.05 * expected_KD.float().norm() else "rows"


def check_head(model: nn.Module) -> None:
    """Check that decoder, head and soft cap together give the model's own logits.

    Raises:
        ConfigurationError: They do not; for instance the model scales its logits.
    """
    row = _probe_rows(model)[0]
    (pack,) = pack_rows([row], max_slots=1 << 16, share=False)
    with torch.no_grad():
        found_K = score_pack(model, pack, layout="rows").logp[torch.from_numpy(pack.token_pair)]
        ids = _on_device(model, row.ids.astype(np.int64))
        logits_TV = cast("Any", model)(input_ids=ids[None], use_cache=False).logits[0].float()
    expected_T = logits_TV[:-1].log_softmax(-1).gather(1, ids[1:, None]).squeeze(1)
    expected_K = expected_T[np.flatnonzero(row.mask) - 1]
    worst = float((found_K - expected_K).abs().max())
    # Why: half precision rounds a logit of 20 to the nearest eighth.
    if worst > (1e-3 if logits_TV.dtype == next(model.parameters()).dtype else 0.25):
        raise ConfigurationError(
            f"{type(model).__name__}: log-probabilities from its decoder and output embedding differ "
            f"from its own logits by {worst:.3g}; this backend does not support such models"
        )


def _alone(model: nn.Module, row: TrainRow) -> Any:
    return _decoder(model)(
        input_ids=_on_device(model, row.ids.astype(np.int64))[None], use_cache=False
    )


def _probe_rows(model: nn.Module) -> list[TrainRow]:
    """Two made-up rows with a common beginning."""
    vocabulary = len(cast("Any", model).get_input_embeddings().weight)
    rng = np.random.default_rng(0)
    stem = rng.integers(0, vocabulary, 12)
    mask = np.arange(20) >= 10
    zeros = np.zeros(20, dtype=np.float32)
    return [
        TrainRow(
            ids=np.concatenate([stem, rng.integers(0, vocabulary, 8)]).astype(np.int32),
            mask=mask,
            logp_rollout=zeros,
            adv=zeros,
            weight=zeros,
            versions=np.zeros(20, dtype=np.int32),
        )
        for _ in range(2)
    ]
