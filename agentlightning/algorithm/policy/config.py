"""The configuration of a policy optimiser that learns from groups of rollouts.

The defaults are those of `docs/algorithms/grpo.md`, which says where each comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from agentlightning.algorithm.policy.run_config import RunConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.algorithm.policy.earned import Earned
    from agentlightning.learning.correction import CorrectionKind
    from agentlightning.learning.kl import KlKind
    from agentlightning.learning.weights import Aggregate

__all__ = ["CreditName", "PolicyConfig", "ZeroSignal"]

CreditName = Literal["rollout", "span", "turn", "agent", "state"]
ZeroSignal = Literal["drop", "keep", "refill"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig(RunConfig):
    """What decides how rewards of groups become a gradient."""

    advantage: str = "group"
    """Name of the advantage estimator: `group`, `rloo`, ..."""
    advantage_scale: Literal["none", "group", "batch"] = "none"
    """What a group-centred reward is divided by."""

    credit: CreditName = "rollout"
    """What a call's tokens are credited with: their rollout's advantage (`rollout`); that and the
    rewards linked to the call (`span`); the rewards from the call on, compared turn by turn
    (`turn`); the reward of the role that made it (`agent`); or the rollout's advantage and a
    comparison with calls that saw the same (`state`). See `docs/algorithms/credit.md`."""
    turn_discount: float = 1.0
    """With `turn` and `state`: factor on a reward for each call in between."""
    state_weight: float = 1.0
    """With `state`: factor of the same-state part."""
    reward_by_role: Mapping[str, str] | None = None
    """With `agent`: role to the dimension of the reward that is its own. By default the dimension
    that is called like the role, and the rollout's reward where there is none."""
    reward_weights: Mapping[str, float] | None = None
    """Dimension to its factor, where a rollout's reward is a sum of several; None takes the
    primary dimension."""
    reward_combination: Literal["sum", "normalise_then_sum"] = "sum"
    """With `reward_weights`: add the rewards up, or normalise each within its group first, so that
    each counts by its weight and not by the size of its numbers (GDPO, arXiv:2601.05242)."""
    zero_signal: ZeroSignal = "drop"
    """Whether groups of equal rewards leave the step and its denominators; or stay with advantage
    0, which makes everyone else's share smaller; or leave it and other tasks are sampled in their
    place until `batch_groups` groups carry a signal (dynamic sampling, arXiv:2503.14476)."""
    max_refills: int = 3
    """With `refill`: rounds of sampling other tasks in a step; what is missing then stays missing."""
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
    """Factor of the penalty on the distance to the initial model, of which a fit without adapters keeps
    a second copy."""
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
        for name in ("update_epochs", "mini_batches", "max_refills"):
            self._require(getattr(self, name) >= 1, name, "must be at least 1")
        for name in ("clip_low", "clip_high", "kl_coef", "entropy_coef"):
            self._require(getattr(self, name) >= 0, name, "must not be negative")
        for name in ("gate_positive", "gate_negative", "is_cap", "overlong_factor"):
            self._require(getattr(self, name) > 0, name, "must be positive")
        self._require(0 < self.overlong_buffer <= 1, "overlong_buffer", "must lie in 0..1")
        self._check_credit()
        self._require_one_of("zero_signal", get_args(ZeroSignal))
        self._require(
            self.zero_signal != "refill" or self.group_size >= 2,
            "group_size",
            "must be at least 2 for zero_signal='refill': a single reward differs from no other",
        )
        self._require_one_of("overlong", ("keep", "mask", "penalty"))
        self._require_one_of("advantage_scale", ("none", "group", "batch"))
        self._require_one_of("anchor", ("rollout", "trainer"))

    def _check_credit(self) -> None:
        self._require_one_of("credit", get_args(CreditName))
        self._require_one_of("reward_combination", ("sum", "normalise_then_sum"))
        self._require(0 < self.turn_discount <= 1, "turn_discount", "must lie in 0..1")
        self._require(self.state_weight >= 0, "state_weight", "must not be negative")
        self._require(
            self.reward_by_role is None or self.credit == "agent",
            "reward_by_role",
            'is for credit="agent"',
        )
        self._require(
            self.reward_combination == "sum"
            or (bool(self.reward_weights) and self.credit in ("rollout", "span")),
            "reward_combination",
            'needs reward_weights, and credit="rollout" or "span"',
        )

    @property
    def refills(self) -> int:
        return self.max_refills if self.zero_signal == "refill" else 0

    def own_reward(self, earned: Earned) -> float | None:
        """Return what a rollout got as a whole, beside what its calls got; None for nothing."""
        if self.reward_weights:
            return earned.weighted(self.reward_weights)
        if self.credit == "rollout":
            return earned.final
        return earned.closing if self.credit in ("turn", "state") else earned.own

    def call_rewards(self, earned: Earned) -> Mapping[str, float]:
        """Return what single calls got, by call id, as far as the credit looks at it."""
        if self.credit == "span":
            return earned.linked
        return earned.by_step if self.credit in ("turn", "state") else {}

    def reward_of(self, earned: Earned) -> float | None:
        own, calls = self.own_reward(earned), self.call_rewards(earned)
        return own if own is None and not calls else (own or 0.0) + sum(calls.values())

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
