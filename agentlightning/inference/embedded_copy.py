"""Inference by the engine of this process on tensors of its own, so that it samples while training.

Frozen tensors are shared with the trained module; what is trained (adapters, or every weight) is
there twice. Publishing copies it between two tokens of the engine.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

import torch

from agentlightning.engine.chat import HistoryMode
from agentlightning.engine.engine import EngineConfig, PauseMode
from agentlightning.inference.base import WeightSource
from agentlightning.inference.embedded import EmbeddedInference

__all__ = ["EmbeddedCopy", "serving_copy"]


def serving_copy(model: Any) -> tuple[Any, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return a module that shares what is frozen in `model`, and what it does not share.

    Args:
        model: A module under training; `requires_grad` tells what of it is trained.

    Returns:
        The copy, none of which can be trained, and the pairs (trained tensor, its copy).
    """
    frozen = [p for p in model.parameters() if not p.requires_grad]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*frozen, *model.buffers())}
    copied = copy.deepcopy(model, memo)
    own = dict(copied.named_parameters())
    pairs = [(p, own[name]) for name, p in model.named_parameters() if p.requires_grad]
    for _, mine in pairs:
        mine.requires_grad_(False)
    return copied.eval(), pairs


class EmbeddedCopy(EmbeddedInference):
    """Implements `InferenceBackend` with an `Engine` on a serving copy of the trained module."""

    shares_weights = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        history: HistoryMode = "exact",
        roles: Mapping[str, str] | None = None,
        config: EngineConfig | None = None,
        swap: PauseMode = "wait",
    ) -> None:
        """Copy what is trained and prepare an engine on it.

        Args:
            model: The module that is trained, with its adapters and `requires_grad` in place.
            tokenizer: Its tokenizer.
            name: Name that it is served under.
            history: How prompts with earlier answers are made.
            roles: As for `EmbeddedInference`.
            config: The engine's limits.
            swap: What becomes of running completions while new weights are copied.

        Raises:
            ConfigurationError: The model's architecture is not supported.
        """
        copied, self._pairs = serving_copy(model)
        super().__init__(copied, tokenizer, name=name, history=history, roles=roles, config=config)
        self._swap: PauseMode = swap
        self._publishing = asyncio.Lock()

    async def publish(self, version: int, weights: WeightSource) -> None:
        """Copy the trained tensors as they are now; `weights` is not asked to write them.

        Nobody may train meanwhile. A pause that was there before stays.
        """
        del weights
        async with self._publishing:
            paused = self.engine.stats().paused
            await self.engine.pause(mode=self._swap)
            try:
                await asyncio.to_thread(self._copy)
                self.engine.set_version(version)
            finally:
                if not paused:
                    self.engine.resume()

    @torch.no_grad()
    def _copy(self) -> None:
        for trained, mine in self._pairs:
            mine.copy_(trained)
