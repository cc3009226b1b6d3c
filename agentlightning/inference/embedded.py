"""Inference by the engine of this process, on the very tensors that are trained."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from agentlightning.engine.chat import HistoryMode
from agentlightning.engine.engine import Engine, EngineConfig, PauseMode
from agentlightning.engine.service import EngineUpstream
from agentlightning.inference.base import InferenceStats, WeightSource

__all__ = ["EmbeddedInference"]


class EmbeddedInference:
    """Implements `InferenceBackend` with an `Engine`; new weights are there without a copy."""

    shares_weights = True
    processed_logprobs = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        history: HistoryMode = "exact",
        roles: Mapping[str, str] | None = None,
        config: EngineConfig | None = None,
    ) -> None:
        """Prepare an engine.

        Args:
            model: The module that is trained, of transformers' kind.
            tokenizer: Its tokenizer.
            name: Name that it is served under.
            history: How prompts with earlier answers are made.
            roles: For several adapters, which agents each samples for, see `EngineUpstream`.
            config: The engine's limits.

        Raises:
            ConfigurationError: The model's architecture is not supported.
        """
        self.engine = Engine(model, tokenizer, config=config)
        self._upstream = EngineUpstream(
            self.engine, model=name, history=history, adapters=tuple(roles or ()), roles=roles
        )

    @property
    def tokens(self) -> Engine:
        return self.engine

    @property
    def upstream(self) -> EngineUpstream:
        return self._upstream

    @property
    def version(self) -> int:
        return self.engine.version

    async def start(self) -> None:
        self.engine.start()

    async def publish(self, version: int, weights: WeightSource) -> None:
        """Say that the shared tensors are now `version`; `weights` is not asked to write them.

        Pause around the change itself, see `InferenceBackend.shares_weights`.
        """
        del weights
        self.engine.set_version(version)

    async def pause(self, *, mode: PauseMode = "wait") -> None:
        await self.engine.pause(mode=mode)

    async def resume(self) -> None:
        self.engine.resume()

    async def stop(self) -> None:
        await asyncio.to_thread(self.engine.stop)

    def stats(self) -> InferenceStats:
        stats = self.engine.stats()
        return InferenceStats(
            running=stats.running,
            waiting=stats.waiting,
            version=stats.version,
            paused=stats.paused,
            prompt_tokens=stats.prompt_tokens,
            cached_prompt_tokens=stats.cached_prompt_tokens,
            sampled_tokens=stats.sampled_tokens,
        )
