"""What every algorithm that learns from preferences has in its configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentlightning.algorithm.policy.answer_config import AnswerConfig

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.preference import Comparison

__all__ = ["PreferenceConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceConfig(AnswerConfig, ABC):
    """Where comparisons come from, and how strong the pull towards the initial model is."""

    source: Literal["rollouts", "records"] = "rollouts"
    """Where answers come from: the agent's rollouts, compared within groups by their rewards; or
    the items of `train_dataset`, which then are records and no tasks. `batch_groups` is the number
    of records in a step."""
    beta: float = 0.1
    """Factor of the log-ratio to the initial model; the larger, the nearer the model stays."""

    def __post_init__(self) -> None:
        AnswerConfig.__post_init__(self)
        self._require_one_of("source", ("rollouts", "records"))
        self._require(self.beta > 0, "beta", "must be positive")
        self._require(
            self.source == "records" or self.group_size >= 2,
            "group_size",
            "must be at least 2: answers to one task are compared",
        )

    @abstractmethod
    def compare(self, rewards: Sequence[float], groups: Sequence[object]) -> Comparison:
        """Return what of a step's answers is compared with what; loads numpy."""

    @property
    @abstractmethod
    def needs_mismatched(self) -> bool:
        """Return whether prompts must be scored with one another's answers."""
