"""DPO: direct preference optimisation on pairs of answers, drawn from groups or given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from agentlightning.algorithm.policy.preference_config import PreferenceConfig
from agentlightning.algorithm.policy.preference_optimizer import PreferenceOptimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.algorithm.policy.preference import Comparison
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.learning.demonstrations import ReadRecord
    from agentlightning.learning.pairs import PairChoice
    from agentlightning.learning.preference import PairKind

__all__ = ["DPO", "DPOConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DPOConfig(PreferenceConfig):
    """Everything that decides how DPO learns."""

    loss: PairKind = "sigmoid"
    """`sigmoid` (arXiv:2305.18290), or `ipo` (arXiv:2310.12036)."""
    label_smoothing: float = 0.0
    """With `sigmoid`: share of pairs that are assumed to be the wrong way round."""
    pairs: PairChoice = "best_worst"
    """Pairs of a group: the best and the worst rollout (`best_worst`), or `all` that differ."""
    min_margin: float = 0.0
    """Least difference of the rewards of a pair."""

    def __post_init__(self) -> None:
        PreferenceConfig.__post_init__(self)
        self._require_one_of("loss", ("sigmoid", "ipo"))
        self._require_one_of("pairs", ("best_worst", "all"))
        self._require(0 <= self.label_smoothing < 0.5, "label_smoothing", "must lie in 0..0.5")
        self._require(
            self.loss == "sigmoid" or not self.label_smoothing,
            "label_smoothing",
            "is for loss='sigmoid'",
        )
        self._require(self.min_margin >= 0, "min_margin", "must not be negative")

    def compare(self, rewards: Sequence[float], groups: Sequence[object]) -> Comparison:
        """Return the pairs of a step; loads numpy."""
        from agentlightning.algorithm.policy.preference import Pairs

        return Pairs(self, rewards, groups)

    @property
    def needs_mismatched(self) -> bool:
        """Return whether prompts must be scored with one another's answers."""
        return False


class DPO(PreferenceOptimizer[DPOConfig]):
    """Makes better answers more likely than worse ones, as far as the initial model allows.

    Pairs come from the agent's rollouts, compared by their rewards, or from records as `agl export`
    writes them.

    Example:
        >>> DPO(model="smollm2-135m-instruct", group_size=4).config.pairs
        'best_worst'
        >>> DPO(model="smollm2-135m-instruct", source="records").needs_agent
        False
    """

    config_class: ClassVar[type[RunConfig]] = DPOConfig

    @property
    def record_reader(self) -> ReadRecord:
        from agentlightning.learning.demonstrations import read_preference

        return read_preference
