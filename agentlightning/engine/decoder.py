"""One forward call of a causal language model over our own cache: tokens in, logits out.

`open_decoder` chooses between the module's own forward, which works for every architecture with
full attention, and the leaner one of `llama_decoder`. Shapes: B row, S new token, K kept, V
vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from agentlightning.engine.adapters import activate_adapter, adapter_layers
from agentlightning.engine.kv_cache import KVCache, TokenBatch
from agentlightning.engine.llama_decoder import LlamaDecoder

__all__ = ["Decoder", "ModuleDecoder", "open_decoder"]


class Decoder(Protocol):
    """Runs a model on new tokens of some rows of the cache; not thread-safe."""

    def forward(self, cache: KVCache, batch: TokenBatch) -> Tensor:
        """Write the new tokens' keys and values into `cache`; return logits [B, K, V]."""
        ...


class ModuleDecoder:
    """The module's own forward; rows of different adapters go one adapter after the other."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def forward(self, cache: KVCache, batch: TokenBatch) -> Tensor:
        names = list(dict.fromkeys(batch.adapters))
        if len(names) == 1:
            return self._run(cache, batch, batch.rows, names[0])
        logits: list[Tensor] = []
        order: list[int] = []
        for name in names:
            chosen = [index for index, adapter in enumerate(batch.adapters) if adapter == name]
            pick = torch.tensor(chosen, device=batch.ids.device)
            part = replace(batch, ids=batch.ids[pick], positions=batch.positions[pick])
            logits.append(self._run(cache, part, pick + batch.rows.start, name))
            order += chosen
        return torch.cat(logits)[torch.tensor(order).argsort().to(batch.ids.device)]

    def _run(
        self, cache: KVCache, batch: TokenBatch, rows: slice | Tensor, adapter: str | None
    ) -> Tensor:
        self._activate(adapter)
        return self._model(
            input_ids=batch.ids,
            attention_mask=cache.aim(rows, batch.positions, batch.columns),
            position_ids=batch.positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=batch.keep,
        ).logits

    def _activate(self, adapter: str | None) -> None:
        """Switch the module, unless it is switched so; a trainer may have done it otherwise."""
        wanted = (adapter is None, [] if adapter is None else [adapter])
        layers = adapter_layers(self._model)
        if any((it.disable_adapters, it.active_adapters) != wanted for it in layers):
            activate_adapter(self._model, adapter)


def open_decoder(model: Any) -> Decoder:
    """Return the fastest decoder that computes what `model` does now; cheap.

    It may hold copies of adapters, and it counts on the module's build: open another one after
    each change of either.
    """
    if LlamaDecoder.fits(model):
        return LlamaDecoder(model)
    return ModuleDecoder(model)
