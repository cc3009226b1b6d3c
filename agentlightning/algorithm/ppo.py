"""PPO: advantages of single tokens, as a critic judges them, and the clipped ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from agentlightning.algorithm.policy.config import CreditName, PolicyConfig
from agentlightning.algorithm.policy.optimizer import PolicyOptimizer

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.learner import Learner
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.learning.critic import CriticConfig
    from agentlightning.learning.weights import Aggregate

__all__ = ["PPO", "PPOConfig"]

_REFUSED = "is not PPO's: its advantages come from the critic"


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig(PolicyConfig):
    """Everything that decides how PPO learns."""

    discount: float = 1.0
    """Factor on a reward for each trained token in between."""
    gae_lambda: float = 1.0
    """How far advantages look beyond the critic's next value: 1 trusts rewards alone, with values
    as the baseline; less trusts values more (GAE, arXiv:1506.02438)."""
    whiten: bool = True
    """Shift and scale advantages to mean 0 and variance 1 over all trained tokens of the step."""
    kl_reward_coef: float = 0.0
    """Each token pays `kl_reward_coef * (log mu - log pi_ref)`, for leaving the initial model."""

    critic_learning_rate: float = 1e-4
    """The critic's own. 1e-5 where large models are trained whole; 1e-3 and more for tiny models
    from scratch."""
    critic_warmup_steps: int = 0
    """First steps of the run in which only the critic learns."""
    critic_epochs: int = 1
    """The critic's passes over the rows of a step, each in `mini_batches` updates."""
    value_clip: float | None = 0.5
    """How far a value may move within a step and still lower its loss; None for any distance."""

    group_size: int = 1
    """Rollouts of one task in a step. They are not compared with each other."""
    batch_groups: int = 32
    advantage: str = "reward"
    """Fixed: rewards as they are go to the critic."""
    credit: CreditName = "span"
    """Which rewards reach tokens: the rollout's alone, at the end (`rollout`); also those linked to
    calls, at the ends of those calls (`span`); also those given between calls, for the call
    before (`turn`)."""
    clip_high: float = 0.2
    dual_clip: float | None = None
    aggregate: Aggregate = "token_mean"
    zero_signal: Literal["drop", "keep"] = "keep"
    """Fixed: groups do not matter here."""

    def __post_init__(self) -> None:
        PolicyConfig.__post_init__(self)
        for name in ("discount", "gae_lambda"):
            self._require(0 < getattr(self, name) <= 1, name, "must lie in 0..1")
        for name in ("kl_reward_coef", "critic_warmup_steps"):
            self._require(getattr(self, name) >= 0, name, "must not be negative")
        self._require(self.critic_learning_rate > 0, "critic_learning_rate", "must be positive")
        self._require(self.critic_epochs >= 1, "critic_epochs", "must be at least 1")
        self._require(
            self.value_clip is None or self.value_clip > 0, "value_clip", "must be positive or None"
        )
        self._check_estimator()

    def _check_estimator(self) -> None:
        """Refuse what compares rollouts with each other."""
        self._require(self.advantage == "reward", "advantage", _REFUSED)
        self._require(self.advantage_scale == "none", "advantage_scale", f"{_REFUSED}; see whiten")
        self._require(self.zero_signal == "keep", "zero_signal", _REFUSED)
        self._require(self.reward_combination == "sum", "reward_combination", _REFUSED)
        self._require(
            self.credit in ("rollout", "span", "turn"), "credit", "must be rollout, span or turn"
        )
        self._require(self.adapters is None, "adapters", "is not for PPO, which has one critic")
        self._require(self.turn_discount == 1.0, "turn_discount", "is not PPO's: see discount")

    def critic(self) -> CriticConfig | None:
        from agentlightning.learning.critic import CriticConfig

        return CriticConfig(
            lr=self.critic_learning_rate,
            grad_clip=self.max_grad_norm,
            weight_decay=self.weight_decay,
        )


class PPO(PolicyOptimizer[PPOConfig]):
    """Trains a model by proximal policy optimisation (arXiv:1707.06347), with a critic.

    The critic is a second adapter over the same base, or, where every weight is trained, a copy
    of the decoder; it is saved with the run and never exported. Advantages are those of GAE
    (arXiv:1506.02438) over the tokens that the policy sampled.

    Example:
        >>> PPO(model="smollm2-135m-instruct", gae_lambda=0.95).config.group_size
        1
    """

    config_class: ClassVar[type[RunConfig]] = PPOConfig

    def learner(self, policy: Policy) -> Learner:
        from agentlightning.algorithm.policy.critic import ActorCritic

        return ActorCritic(self.config, policy)
