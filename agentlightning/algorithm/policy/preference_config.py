"""What every algorithm that learns from preferences has in its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentlightning.algorithm.policy.run_config import RunConfig

__all__ = ["PreferenceConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceConfig(RunConfig):
    """Where comparisons come from, and how strong the pull towards the initial model is."""

    source: Literal["rollouts", "records"] = "rollouts"
    """Where answers come from: the agent's rollouts, compared within groups by their rewards; or
    the items of `train_dataset`, which then are records and no tasks. `batch_groups` is the number
    of records in a step."""
    beta: float = 0.1
    """Factor of the log-ratio to the initial model; the larger, the nearer the model stays."""
    update_epochs: int = 1
    """Updates per step, each on all that the step compares."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # A dataclass with slots has no zero-argument super().
        self._require_one_of("source", ("rollouts", "records"))
        self._require(
            self.adapters is None,
            "adapters",
            "is for policy gradients; here one adapter is trained",
        )
        self._require(self.beta > 0, "beta", "must be positive")
        self._require(self.update_epochs >= 1, "update_epochs", "must be at least 1")
        self._require(
            self.lora_rank is not None,
            "lora_rank",
            "must be given: the reference is the model without its adapters",
        )
        self._require(
            self.source == "records" or self.group_size >= 2,
            "group_size",
            "must be at least 2: answers to one task are compared",
        )

    @property
    def trained_roles(self) -> str | None:
        """Return which roles are trained; answers that are given have none."""
        return self.roles if self.source == "rollouts" else None

    @property
    def answer_temperature(self) -> float:
        """Return the temperature at which answers are scored."""
        return self.temperature if self.source == "rollouts" else 1.0
