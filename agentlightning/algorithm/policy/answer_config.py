"""What the configurations have in common of algorithms that also learn from given answers."""

from __future__ import annotations

from dataclasses import dataclass

from agentlightning.algorithm.policy.run_config import RunConfig

__all__ = ["AnswerConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerConfig(RunConfig):
    """Answers come from rollouts or are given; one adapter is trained on them."""

    source: str = "rollouts"
    """Where answers come from: `rollouts`, or what a subclass calls given ones."""
    update_epochs: int = 1
    """Passes over the answers of a step."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # A dataclass with slots has no zero-argument super().
        self._require(
            self.adapters is None,
            "adapters",
            "is for policy gradients; here one adapter is trained",
        )
        self._require(self.update_epochs >= 1, "update_epochs", "must be at least 1")

    @property
    def trained_roles(self) -> str | None:
        """Return which roles are trained; answers that are given have none."""
        return self.roles if self.source == "rollouts" else None

    @property
    def answer_temperature(self) -> float:
        """Return the temperature at which answers are scored."""
        return self.temperature if self.source == "rollouts" else 1.0
