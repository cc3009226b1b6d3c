"""The protocol between a training run and whatever samples its model.

The algorithm decides when weights change; a backend samples, says which version sampled each
token, and takes new weights without being started again. It never trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentlightning.engine.engine import PauseMode
from agentlightning.engine.service import EngineUpstream
from agentlightning.engine.token_source import TokenSource

__all__ = ["InferenceBackend", "InferenceStats", "WeightSource"]


class WeightSource(Protocol):
    """What can write the weights under training; every `TrainBackend` is one."""

    def export(self, path: Path, *, merged: bool = False, adapter: str = "default") -> None:
        """Write an adapter in peft's format, or a whole model in that of transformers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceStats:
    """What a backend has done since it was started, and does now."""

    running: int
    """Completions being sampled."""
    waiting: int
    """Completions that wait for room, or for `resume`."""
    version: int
    paused: bool
    prompt_tokens: int
    cached_prompt_tokens: int
    """Prompt tokens that needed no computing, as far as the server says."""
    sampled_tokens: int


class InferenceBackend(Protocol):
    """Samples one model while it is trained.

    The order of calls: `start`, `publish` of the first version; then anything; at last `stop`.
    The coroutines belong to one event loop; `tokens` and `upstream` serve any.
    """

    @property
    def shares_weights(self) -> bool:
        """Tell whether it samples the very tensors that are trained.

        If so, pause it around a training step; if not, it may go on sampling meanwhile.
        """
        ...

    @property
    def processed_logprobs(self) -> bool:
        """Tell whether log-probabilities are those of the distribution that was drawn from.

        Where not, they are right at temperature 1 without top-p and top-k only.
        """
        ...

    @property
    def tokens(self) -> TokenSource:
        """Return it as a source of tokens, for checks and for whoever renders prompts himself.

        To check it against a trainer, sample a few tokens and let the trainer score them.
        """
        ...

    @property
    def upstream(self) -> EngineUpstream:
        """Return it as the gateway's upstream: chat with ids, log-probabilities and versions."""
        ...

    @property
    def version(self) -> int:
        """Return the version of the weights that a call made now is sampled with."""
        ...

    async def start(self) -> None:
        """Make ready to sample; idempotent.

        Raises:
            ConfigurationError: What was asked for cannot work with this server.
            UpstreamError: The server cannot be reached.
        """
        ...

    async def publish(self, version: int, weights: WeightSource) -> None:
        """Sample `weights` as `version` from now on.

        Calls that run go on as they began, or wait; each token says which version sampled it. When
        it fails, the version before stays.

        Raises:
            ConfigurationError: This server cannot take such weights.
            UpstreamError: The server failed or cannot be reached.
        """
        ...

    async def pause(self, *, mode: PauseMode = "wait") -> None:
        """Let no new call begin until `resume`, and return once the backend stands still.

        Args:
            mode: What becomes of running completions, see `PauseMode`.
        """
        ...

    async def resume(self) -> None:
        """Sample again after `pause`; without one it does nothing."""
        ...

    async def stop(self) -> None:
        """End what `start` began; a server that was there before stays. Idempotent."""
        ...

    def stats(self) -> InferenceStats:
        """Return a snapshot; cheap, from any thread."""
        ...
