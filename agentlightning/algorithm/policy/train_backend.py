"""From a run's configuration to what trains its model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from agentlightning.engine.loading import load_model
from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
from agentlightning.learning.lora import ADAPTER

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.run_config import RunConfig

__all__ = ["make_train_backend"]


def make_train_backend(
    config: RunConfig, model: Any, *, devices: int | None = None, shard: bool = False
) -> TorchTrainBackend:
    """Put adapters into `model`, where the configuration has some, and prepare to train it.

    Args:
        config: The run's configuration.
        model: Its model, as `load_model` gives it.
        devices: How many devices train; more than one starts processes, which `close` ends. Weights
            of a run can be loaded with any number.
        shard: Whether each of them holds a shard, and not the whole model.

    Raises:
        ConfigurationError: The model cannot be trained this way, or there are fewer devices.
        TrainingError: The model cannot be loaded onto another device.
    """
    torch_config = _torch_config(config)
    load = partial(_load, config.model, str(model.dtype).removeprefix("torch."))
    # Loaded when a loss first compares with it; with adapters their base is the reference.
    reference = None if config.lora_rank else partial(load, str(model.device))
    if devices is None or devices == 1:
        return TorchTrainBackend(model, config=torch_config, load_reference=reference)
    from agentlightning.learning.backends.distributed import (
        DistributedTrainBackend,
        other_devices,
    )

    others = other_devices(model.device, devices)
    if not shard:
        return DistributedTrainBackend(
            model, load=load, devices=others, config=torch_config, load_reference=reference
        )
    from agentlightning.learning.backends.sharded import ShardedTrainBackend

    everywhere = [str(model.device), *others]
    return ShardedTrainBackend(
        model, load=load, devices=everywhere, config=torch_config, load_reference=reference
    )


def _torch_config(config: RunConfig) -> TorchConfig:
    rank = config.lora_rank
    return TorchConfig(
        lora=None if rank is None else LoraConfig(r=rank, alpha=config.lora_alpha),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        adapters=tuple(config.adapters or (ADAPTER,)),
        grad_clip=config.max_grad_norm,
        grad_norm_limit=config.grad_norm_limit,
        warmup_steps=config.warmup_steps,
        max_slots=config.micro_batch_tokens,
        critic=config.critic(),
    )


def _load(source: str, dtype: str, device: str) -> Any:
    """Load a run's model in another process."""
    return load_model(source, dtype=dtype, device=device).model
