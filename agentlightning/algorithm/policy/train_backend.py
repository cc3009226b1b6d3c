"""From a run's configuration to what trains its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
from agentlightning.learning.lora import ADAPTER

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.run_config import RunConfig

__all__ = ["make_train_backend"]


def make_train_backend(config: RunConfig, model: Any) -> TorchTrainBackend:
    """Put adapters into `model`, where the configuration has some, and prepare to train it.

    Raises:
        ConfigurationError: The model cannot be trained this way.
    """
    rank = config.lora_rank
    return TorchTrainBackend(
        model,
        config=TorchConfig(
            lora=None if rank is None else LoraConfig(r=rank, alpha=config.lora_alpha),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            adapters=tuple(config.adapters or (ADAPTER,)),
            grad_clip=config.max_grad_norm,
            grad_norm_limit=config.grad_norm_limit,
            warmup_steps=config.warmup_steps,
            max_slots=config.micro_batch_tokens,
            critic=config.critic(),
        ),
    )
