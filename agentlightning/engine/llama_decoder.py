"""A forward pass for decoders of Llama's build, without what sampling does not need.

It computes what the module's own forward computes, operation by operation, from the module's own
weights; only adapters are copied, see `lora_stack`. Shapes: B row, S new token, N = B * S, H query
head, K key/value head, G = H / K, D head width, T column, I hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlightning.engine.attention import attend
from agentlightning.engine.kv_cache import KVCache, TokenBatch
from agentlightning.engine.lora_stack import AdapterGate, LoraStack, stackable

__all__ = ["LlamaDecoder"]

_ARCHITECTURES = frozenset(
    {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
)


class LlamaDecoder:
    """Runs Llama, Mistral, Qwen2 and Qwen3 modules; not thread-safe.

    Adapters are sampled as they were when first needed: open another decoder when they change.

    Perf: on a CPU a decoding step of SmolLM2-135M with LoRA takes two thirds of the module's own
    time, mostly saved on adapters; without them, nine tenths.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._gate = AdapterGate((), None)
        self._stacks: dict[tuple[int, str, tuple[str, ...]], LoraStack] = {}

    @staticmethod
    def fits(model: Any) -> bool:
        """Tell whether `model` has the build that this class computes, without any hooks."""
        if type(model).__name__ not in _ARCHITECTURES or not type(model).__module__.startswith(
            "transformers."
        ):
            return False
        plain = (type(model.model.embed_tokens), type(model.lm_head)) == (nn.Embedding, nn.Linear)
        return plain and all(
            stackable(layer)
            for block in model.model.layers
            for part in (block.self_attn, block.mlp)
            for name, layer in part.named_children()
            if name.endswith("_proj")
        )

    def forward(self, cache: KVCache, batch: TokenBatch) -> Tensor:
        model, shape = self._model.model, batch.ids.shape
        mask = cache.aim(batch.rows, batch.positions, batch.columns)
        x = model.embed_tokens(batch.ids).flatten(0, 1)
        self._gate = AdapterGate.of_rows(batch.adapters, shape[1], x)
        rotary = _rotary(model.rotary_emb, x, batch.positions)
        for index, block in enumerate(model.layers):
            attention = block.self_attn
            if index == 0:
                # Query heads of one key/value head are laid out as its further queries.
                mask = mask.repeat_interleave(attention.num_key_value_groups, dim=2)
            normed = _norm(block.input_layernorm, x)
            x = x + self._attend(index, attention, normed, rotary, mask, cache, shape)
            normed = _norm(block.post_attention_layernorm, x)
            x = x + self._feed_forward(index, block.mlp, normed)
        kept = x.unflatten(0, shape)[:, batch.keep]
        return self._model.lm_head(_norm(model.norm, kept))

    def _attend(
        self,
        index: int,
        attention: Any,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor,
        cache: KVCache,
        shape: torch.Size,
    ) -> Tensor:
        groups, width = attention.num_key_value_groups, attention.head_dim
        q, k, v = (
            y.unflatten(-1, (-1, width))
            for y in self._linear(
                (index, "qkv"), (attention.q_proj, attention.k_proj, attention.v_proj), x
            )
        )
        if hasattr(attention, "q_norm"):
            q, k = _norm(attention.q_norm, q), _norm(attention.k_norm, k)
        q, k = _rotate(q, *rotary), _rotate(k, *rotary)
        keys, values = cache.update(
            k.unflatten(0, shape).transpose(1, 2), v.unflatten(0, shape).transpose(1, 2), index
        )
        batch, new = shape
        # [B * S, K * G, D] -> [B, K, S * G, D]
        queries = q.view(batch, new, -1, groups, width).transpose(1, 2).flatten(2, 3)
        y = attend(queries, keys, values, mask, attention.scaling)
        mixed = y.unflatten(2, (new, groups)).transpose(1, 2).reshape(batch * new, -1)
        return self._linear((index, "o"), (attention.o_proj,), mixed)[0]

    def _feed_forward(self, index: int, mlp: Any, x: Tensor) -> Tensor:
        gate, up = self._linear((index, "gate_up"), (mlp.gate_proj, mlp.up_proj), x)
        return self._linear((index, "down"), (mlp.down_proj,), mlp.act_fn(gate) * up)[0]

    def _linear(self, key: tuple[int, str], layers: Sequence[Any], x: Tensor) -> list[Tensor]:
        """Return the outputs of layers that share an input, each row with its adapter."""
        outputs: list[Tensor] = []
        for layer in layers:
            base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
            outputs.append(functional.linear(x, base.weight, base.bias))
        if self._gate.names:
            stack = self._stacks.get((*key, self._gate.names))
            if stack is None:
                stack = LoraStack(layers, self._gate.names)
                self._stacks[*key, self._gate.names] = stack
            stack.add(x, outputs, self._gate)
        return outputs


def _norm(norm: Any, x: Tensor) -> Tensor:
    """Return what the module's root-mean-square norm returns, rounding where it rounds."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * (wide * scale).to(x.dtype)


def _rotary(embedding: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and signed sines, [N, 1, D], so that rotating is a roll by half a head."""
    cos, sin = (values.flatten(0, 1).unsqueeze(1) for values in embedding(x, positions))
    half = sin.shape[-1] // 2
    return cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin
