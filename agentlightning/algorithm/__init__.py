"""Algorithms: what learns from rollouts. Classes load when they are first used."""

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_exports

if TYPE_CHECKING:
    from agentlightning.algorithm.base import Algorithm
    from agentlightning.algorithm.decorator import FunctionalAlgorithm, algo
    from agentlightning.algorithm.dpo import DPO, DPOConfig
    from agentlightning.algorithm.fast import Baseline, FastAlgorithm
    from agentlightning.algorithm.grpo import GRPO, GRPOConfig
    from agentlightning.algorithm.kto import KTO, KTOConfig
    from agentlightning.algorithm.policy.result import FitResult
    from agentlightning.algorithm.ppo import PPO, PPOConfig
    from agentlightning.algorithm.reinforce_plus_plus import (
        ReinforcePlusPlus,
        ReinforcePlusPlusConfig,
    )
    from agentlightning.algorithm.rloo import RLOO, RLOOConfig
    from agentlightning.algorithm.sft import SFT, SFTConfig
    from agentlightning.algorithm.verl.factory import VERL

__all__ = [
    "DPO",
    "GRPO",
    "KTO",
    "PPO",
    "RLOO",
    "SFT",
    "VERL",
    "Algorithm",
    "Baseline",
    "DPOConfig",
    "FastAlgorithm",
    "FitResult",
    "FunctionalAlgorithm",
    "GRPOConfig",
    "KTOConfig",
    "PPOConfig",
    "RLOOConfig",
    "ReinforcePlusPlus",
    "ReinforcePlusPlusConfig",
    "SFTConfig",
    "algo",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Algorithm": "agentlightning.algorithm.base",
        "FunctionalAlgorithm": "agentlightning.algorithm.decorator",
        "algo": "agentlightning.algorithm.decorator",
        "Baseline": "agentlightning.algorithm.fast",
        "FastAlgorithm": "agentlightning.algorithm.fast",
        "GRPO": "agentlightning.algorithm.grpo",
        "GRPOConfig": "agentlightning.algorithm.grpo",
        "PPO": "agentlightning.algorithm.ppo",
        "PPOConfig": "agentlightning.algorithm.ppo",
        "RLOO": "agentlightning.algorithm.rloo",
        "RLOOConfig": "agentlightning.algorithm.rloo",
        "ReinforcePlusPlus": "agentlightning.algorithm.reinforce_plus_plus",
        "ReinforcePlusPlusConfig": "agentlightning.algorithm.reinforce_plus_plus",
        "DPO": "agentlightning.algorithm.dpo",
        "DPOConfig": "agentlightning.algorithm.dpo",
        "KTO": "agentlightning.algorithm.kto",
        "KTOConfig": "agentlightning.algorithm.kto",
        "SFT": "agentlightning.algorithm.sft",
        "SFTConfig": "agentlightning.algorithm.sft",
        "VERL": "agentlightning.algorithm.verl.factory",
        "FitResult": "agentlightning.algorithm.policy.result",
    },
)
