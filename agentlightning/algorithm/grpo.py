"""GRPO: group-relative policy optimisation of a model that this process samples and trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from agentlightning.algorithm.policy.config import PolicyConfig
from agentlightning.algorithm.policy.optimizer import PolicyOptimizer
from agentlightning.algorithm.variants import Variant, variant_settings

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.learner import Learner
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.run_config import RunConfig

__all__ = ["GRPO", "GRPOConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPOConfig(PolicyConfig):
    """Everything that decides how GRPO learns.

    With a `variant`, the fields that the caller does not give take that variant's values; the
    configuration then holds them, so what is stored and printed is what is done.

    Example:
        >>> config = GRPOConfig(model="m", variant="dapo", clip_high=0.3)
        >>> config.aggregate, config.clip_high
        ('token_mean', 0.3)
    """

    variant: Variant | None = None
    """A published variant: `grpo`, `dr_grpo`, `dapo`, `gspo`, `cispo` or `sapo`, see
    `docs/algorithms/grpo.md`; None for this library's defaults."""

    if not TYPE_CHECKING:
        # Only here is it known which fields the caller gave; `dataclass` keeps this method.
        def __init__(self, *, variant: Variant | None = None, **settings: Any) -> None:
            object.__setattr__(self, "variant", variant)
            PolicyConfig.__init__(self, **{**variant_settings(variant), **settings})

    def __post_init__(self) -> None:
        PolicyConfig.__post_init__(self)
        self._require(self.group_size >= 2, "group_size", "must be at least 2 to compare with")


class GRPO(PolicyOptimizer[GRPOConfig]):
    """Trains a model on what its own rollouts earned, compared within groups of the same task.

    Advantages are group-centred rewards (arXiv:2402.03300, without the division by the standard
    deviation that arXiv:2503.20783 argues against); the loss is PPO's clipped ratio against the
    probabilities recorded at sampling time, with the asymmetric bounds of arXiv:2503.14476.
    `variant` chooses a published combination instead.

    Example:
        >>> GRPO(model="smollm2-135m-instruct", group_size=4).config.group_size
        4
        >>> GRPO(model="smollm2-135m-instruct", variant="gspo").config.loss
        'gspo'
    """

    config_class: ClassVar[type[RunConfig]] = GRPOConfig

    def learner(self, policy: Policy) -> Learner:
        from agentlightning.algorithm.policy.gradient import PolicyGradient

        return PolicyGradient(self.config, policy)
