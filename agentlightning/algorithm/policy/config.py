"""The configuration of a policy optimiser that learns from groups of rollouts.

The defaults are those of `docs/algorithms/grpo.md`, which says where each comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from agentlightning.algorithm.policy.run_config import RunConfig

if TYPE_CHECKING:
    from agentlightning.learning.correction import CorrectionKind
    from agentlightning.learning.kl import KlKind
    from agentlightning.learning.weights import Aggregate

__all__ = ["PolicyConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig(RunConfig):
    """What decides how rewards of groups become a gradient."""

    advantage: str = "group"
    """Name of the advantage estimator: `group`, `rloo`, ..."""
    advantage_scale: Literal["none", "group", "batch"] = "none"
    """What a group-centred reward is divided by."""

    zero_signal: Literal["drop", "keep"] = "drop"
    """Whether groups of equal rewards leave the step and its denominators, or stay with advantage
    0, which makes everyone else's share smaller."""
    overlong: Literal["keep", "mask", "penalty"] = "keep"
    """What becomes of answers that hit their length limit, and of rollouts that ended because the
    context was full: trained like others; not trained (their rewards still count in the group's
    mean); or trained with a lower reward, by up to `overlong_factor`, which begins in the last
    `overlong_buffer` of the limit (DAPO, arXiv:2503.14476)."""
    overlong_buffer: float = 0.2
    """Share of the length limit over which the penalty rises to its full size."""
    overlong_factor: float = 1.0
    """Full size of the penalty, in rewards."""

    loss: str = "ppo_clip"
    """Name of the loss: `ppo_clip`, `gspo`, `cispo`, `sapo`, `dppo_tv`, `reinforce_is`, or a
    registered one."""
    clip_low: float = 0.2
    clip_high: float = 0.28
    """Ratios count up to `1 - clip_low` and `1 + clip_high`."""
    dual_clip: float | None = 3.0
    """Cap on the loss of a token with a negative advantage, in advantages; None for none."""
    gate_positive: float = 1.0
    gate_negative: float = 1.05
    """Temperatures of `sapo`'s gate for tokens with a positive and a negative advantage."""
    is_cap: float = 2.0
    """Cap on the importance weight of `reinforce_is`."""
    off_policy_mask: float | None = None
    """Leave out sequences with a negative advantage that the policy has left behind: those whose
    mean log-ratio fell below minus this (DeepSeek-V3.2, arXiv:2512.02556); None keeps all."""
    anchor: Literal["rollout", "trainer"] = "rollout"
    """What ratios are taken against: the log-probabilities recorded at sampling, or the trainer's
    own before the step, in which case `correction` makes up for the difference between the two."""
    correction: CorrectionKind = "token_tis"
    correction_low: float = 0.5
    correction_high: float = 2.0
    """Bounds of the correction; the truncating kinds use only the upper one."""
    kl_coef: float = 0.0
    """Factor of the penalty on the distance to the initial model; needs adapters."""
    kl_kind: KlKind = "k3"
    entropy_coef: float = 0.0
    """Factor of the entropy bonus."""
    aggregate: Aggregate = "rollout_mean"
    """How token losses are weighted: `rollout_mean`, `token_mean`, ..."""
    update_epochs: int = 1
    """Passes over the rows of a step."""
    mini_batches: int = 1
    """Updates per pass, each on a part of the groups."""

    shuffle_advantages: bool = False
    """Negative control: shuffle advantages inside each batch, so that nothing can be learnt."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # A dataclass with slots has no zero-argument super().
        for name in ("update_epochs", "mini_batches"):
            self._require(getattr(self, name) >= 1, name, "must be at least 1")
        for name in ("clip_low", "clip_high", "kl_coef", "entropy_coef"):
            self._require(getattr(self, name) >= 0, name, "must not be negative")
        for name in ("gate_positive", "gate_negative", "is_cap", "overlong_factor"):
            self._require(getattr(self, name) > 0, name, "must be positive")
        self._require(0 < self.overlong_buffer <= 1, "overlong_buffer", "must lie in 0..1")
        self._require_one_of("zero_signal", ("drop", "keep"))
        self._require_one_of("overlong", ("keep", "mask", "penalty"))
        self._require_one_of("advantage_scale", ("none", "group", "batch"))
        self._require_one_of("anchor", ("rollout", "trainer"))
        self._require(
            not self.kl_coef or self.lora_rank is not None,
            "kl_coef",
            "needs a reference model: train adapters (lora_rank), whose base is the reference",
        )

    def check_names(self) -> None:
        """Check that advantage, loss, aggregate and estimators are known; loads torch.

        Raises:
            ConfigurationError: One is not; the message lists those that are.
        """
        from agentlightning.learning.advantages import advantage_names
        from agentlightning.learning.correction import CorrectionKind
        from agentlightning.learning.kl import KlKind
        from agentlightning.learning.losses import loss_names
        from agentlightning.learning.weights import Aggregate

        self._require_one_of("advantage", advantage_names())
        self._require_one_of("loss", loss_names())
        self._require_one_of("aggregate", get_args(Aggregate))
        self._require_one_of("correction", get_args(CorrectionKind))
        self._require_one_of("kl_kind", get_args(KlKind))
