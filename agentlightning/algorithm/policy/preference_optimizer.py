"""What the algorithms that learn from preferences have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

from agentlightning.algorithm.policy.optimizer import PolicyOptimizer
from agentlightning.algorithm.policy.preference_config import PreferenceConfig

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.learner import Learner
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.learning.demonstrations import ReadRecord

__all__ = ["PreferenceOptimizer"]

ConfigT = TypeVar("ConfigT", bound=PreferenceConfig)


class PreferenceOptimizer(PolicyOptimizer[ConfigT]):
    """Compares answers, from rollouts or records, with what the initial model makes of them."""

    def learner(self, policy: Policy) -> Learner:
        from agentlightning.algorithm.policy.preference import PreferenceGradient

        return PreferenceGradient(self.config, policy)

    @property
    def reads(self) -> ReadRecord | None:
        return self.record_reader if self.config.source == "records" else None

    @property
    @abstractmethod
    def record_reader(self) -> ReadRecord:
        """Return how to read a record; loads numpy."""
