"""RLOO: REINFORCE with the other members of the group as the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from agentlightning.algorithm.policy.config import PolicyConfig
from agentlightning.algorithm.policy.optimizer import PolicyOptimizer

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.learner import Learner
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.learning.weights import Aggregate

__all__ = ["RLOO", "RLOOConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RLOOConfig(PolicyConfig):
    """Everything that decides how RLOO learns."""

    advantage: str = "rloo"
    """Fixed: the reward less the mean of the *other* members' rewards."""
    advantage_scale: Literal["none", "group", "batch"] = "none"
    """Fixed: nothing is divided by."""
    loss: str = "reinforce_is"
    """REINFORCE, with the importance weight of tokens that an older policy sampled."""
    aggregate: Aggregate = "dr_grpo"
    """A sum over a rollout's tokens, as its log-probability is; over `max_tokens`, a constant."""

    def __post_init__(self) -> None:
        PolicyConfig.__post_init__(self)
        self._require(self.group_size >= 2, "group_size", "must be at least 2 to leave one out")
        self._require(self.advantage == "rloo", "advantage", "is not RLOO's: use GRPO to choose")
        self._require(
            self.advantage_scale == "none", "advantage_scale", "is not RLOO's: use GRPO to choose"
        )


class RLOO(PolicyOptimizer[RLOOConfig]):
    """Trains a model by REINFORCE Leave-One-Out (arXiv:2402.14740).

    The advantage of a rollout is its reward less the mean of the others of its group: an unbiased
    estimate of the gradient, which a mean that includes the rollout itself shrinks by (G-1)/G.

    Example:
        >>> RLOO(model="smollm2-135m-instruct", group_size=4).config.loss
        'reinforce_is'
    """

    config_class: ClassVar[type[RunConfig]] = RLOOConfig

    def learner(self, policy: Policy) -> Learner:
        from agentlightning.algorithm.policy.gradient import PolicyGradient

        return PolicyGradient(self.config, policy)
