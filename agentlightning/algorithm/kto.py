"""KTO: optimisation on answers that are good or bad, without pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from agentlightning.algorithm.policy.preference_config import PreferenceConfig
from agentlightning.algorithm.policy.preference_optimizer import PreferenceOptimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.algorithm.policy.preference import Comparison
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.learning.demonstrations import ReadRecord

__all__ = ["KTO", "KTOConfig"]

_GOOD_RECORD = 0.5
"""Between the rewards of the two labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KTOConfig(PreferenceConfig):
    """Everything that decides how KTO learns."""

    threshold: float | None = None
    """With `rollouts`: least reward of a good answer. None: good is above the mean of the group,
    bad below it."""
    good_weight: float = 1.0
    bad_weight: float = 1.0
    """Weights of good and bad answers; where one kind is rarer, raise its weight until weight times
    number is about the same for both."""
    reference_point: Literal["auto", "batch", "mismatched", "zero"] = "auto"
    """What log-ratios are compared with: the mean log-ratio of the answers themselves (`batch`, an
    estimate of the KL divergence where the policy sampled them); that of prompts with one another's
    answers (`mismatched`, the paper's; a quarter to a half more work); or 0. `auto` takes `batch`
    for rollouts and `mismatched` for records."""

    def __post_init__(self) -> None:
        PreferenceConfig.__post_init__(self)
        for name in ("good_weight", "bad_weight"):
            self._require(getattr(self, name) > 0, name, "must be positive")
        self._require_one_of("reference_point", ("auto", "batch", "mismatched", "zero"))
        self._require(
            self.threshold is None or self.source == "rollouts",
            "threshold",
            "is for source='rollouts'; records have labels",
        )

    @property
    def least_good(self) -> float | None:
        """Return the least reward of a good answer; None for the mean of its group."""
        return self.threshold if self.source == "rollouts" else _GOOD_RECORD

    @property
    def needs_mismatched(self) -> bool:
        """Return whether prompts must be scored with one another's answers."""
        wanted = self.reference_point
        return wanted == "mismatched" or (wanted == "auto" and self.source == "records")

    def compare(self, rewards: Sequence[float], groups: Sequence[object]) -> Comparison:
        """Return the labels of a step; loads numpy."""
        from agentlightning.algorithm.policy.preference import Labels

        return Labels(self, rewards, groups)


class KTO(PreferenceOptimizer[KTOConfig]):
    """Makes good answers more and bad ones less likely, as far as the initial model allows.

    Answers come from the agent's rollouts, labelled by their rewards, or from records as
    `agl export` writes them.

    Example:
        >>> KTO(model="smollm2-135m-instruct", threshold=0.5).config.least_good
        0.5
        >>> KTO(model="smollm2-135m-instruct", source="records").needs_agent
        False
    """

    config_class: ClassVar[type[RunConfig]] = KTOConfig

    @property
    def record_reader(self) -> ReadRecord:
        from agentlightning.learning.demonstrations import read_labelled

        return read_labelled
