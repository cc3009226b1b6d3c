"""REINFORCE++: returns of single tokens, whitened over the whole batch, and PPO's clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from agentlightning.algorithm.policy.config import PolicyConfig, ZeroSignal
from agentlightning.algorithm.policy.optimizer import PolicyOptimizer

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.learner import Learner
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.learning.weights import Aggregate

__all__ = ["ReinforcePlusPlus", "ReinforcePlusPlusConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforcePlusPlusConfig(PolicyConfig):
    """Everything that decides how REINFORCE++ learns.

    `kl_coef` is the factor of the penalty **in the reward** here: each token pays
    `kl_coef * (log mu - log pi_ref)`, and tokens before it share in that.
    """

    baseline: bool = False
    """Take the group's mean off each reward first (REINFORCE++-baseline): for several rollouts of
    a task. Without it, a task may have a single rollout, and easy tasks look better than hard ones.
    """
    discount: float = 1.0
    """Factor on a reward for each trained token in between."""
    advantage: str = "auto"
    """Set by `baseline`: `group` with it, `reward` without."""
    loss: str = "ppo_clip"
    clip_high: float = 0.2
    dual_clip: float | None = None
    aggregate: Aggregate = "token_mean"
    zero_signal: ZeroSignal = "keep"
    """Groups of equal rewards stay: they are part of what the batch is whitened by."""

    def __post_init__(self) -> None:
        estimator = "group" if self.baseline else "reward"
        self._require(
            self.advantage in ("auto", estimator),
            "advantage",
            f"is not that of baseline={self.baseline}: leave it out",
        )
        object.__setattr__(self, "advantage", estimator)
        PolicyConfig.__post_init__(self)
        self._require(0 < self.discount <= 1, "discount", "must lie in 0..1")
        self._require(
            not self.baseline or self.group_size >= 2, "group_size", "must be at least 2 for a mean"
        )
        self._require(
            self.adapters is None, "adapters", "must be left out: REINFORCE++ trains a single one"
        )
        self._require(
            self.credit == "rollout", "credit", "must be 'rollout': returns are made by token here"
        )
        self._require(
            self.reward_combination == "sum", "reward_combination", "must be 'sum' with REINFORCE++"
        )


class ReinforcePlusPlus(PolicyOptimizer[ReinforcePlusPlusConfig]):
    """Trains a model by REINFORCE++ (arXiv:2501.03262), with or without the group's baseline.

    Example:
        >>> ReinforcePlusPlus(model="smollm2-135m-instruct", baseline=True).config.advantage
        'group'
    """

    config_class: ClassVar[type[RunConfig]] = ReinforcePlusPlusConfig

    def learner(self, policy: Policy) -> Learner:
        from agentlightning.algorithm.policy.token_gradient import TokenReturnGradient

        return TokenReturnGradient(self.config, policy)
