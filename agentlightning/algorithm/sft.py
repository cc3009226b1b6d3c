"""SFT: supervised fine-tuning on demonstrations, or on the best of the model's own rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from agentlightning.algorithm.policy.answer_config import AnswerConfig
from agentlightning.algorithm.policy.optimizer import PolicyOptimizer

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.learner import Learner
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.learning.demonstrations import ReadRecord
    from agentlightning.learning.weights import Aggregate

__all__ = ["SFT", "SFTConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTConfig(AnswerConfig):
    """Everything that decides what SFT imitates, and how."""

    source: Literal["demonstrations", "rollouts"] = "demonstrations"
    """Where answers come from: the items of `train_dataset` are conversations to imitate; or they
    are tasks, which the agent does with the model as it is, and what was good of that is imitated
    (rejection sampling; step after step, expert iteration)."""
    group_size: int = 1
    """With `rollouts`: rollouts of one task in a step. A demonstration is a group by itself, so
    `batch_groups` is the number of demonstrations in a step."""
    learning_rate: float = 1e-4
    min_reward: float | None = None
    """Least reward of what is imitated; a demonstration has the one in its member `reward`, or 1."""
    best_of_group: int | None = None
    """With `rollouts`: imitate so many of each group, the best (RAFT, arXiv:2304.06767)."""
    weight_by_reward: bool = False
    """Weigh each answer with its reward; those of 0 or less are left out."""
    aggregate: Aggregate = "token_mean"
    """How tokens share the loss: each alike (`token_mean`), or each answer (`rollout_mean`), ..."""
    mini_batches: int = 1
    """Updates per pass, each on a part of the groups."""

    def __post_init__(self) -> None:
        AnswerConfig.__post_init__(self)
        self._require_one_of("source", ("demonstrations", "rollouts"))
        self._require(self.mini_batches >= 1, "mini_batches", "must be at least 1")
        if self.source == "demonstrations":
            self._require(self.group_size == 1, "group_size", "is for source='rollouts'")
            self._require(self.best_of_group is None, "best_of_group", "is for source='rollouts'")
            return
        self._require(
            self.best_of_group is None or 1 <= self.best_of_group < self.group_size,
            "best_of_group",
            "must be at least 1 and less than group_size",
        )
        self._require(
            self.min_reward is not None or self.best_of_group is not None or self.weight_by_reward,
            "source",
            "needs min_reward, best_of_group or weight_by_reward: a model that imitates all that "
            "it says learns nothing",
        )

    def check_names(self) -> None:
        from typing import get_args

        from agentlightning.learning.weights import NEEDS_LENGTH, Aggregate

        known = [name for name in get_args(Aggregate) if name not in NEEDS_LENGTH]
        self._require_one_of("aggregate", known)


class SFT(PolicyOptimizer[SFTConfig]):
    """Makes given or chosen answers more likely, by their negative log-likelihood.

    Only what the model said, or should have said, is learnt: each assistant message of a
    demonstration, from behind the prompt to its end token, as the engine would have sampled it.

    Example:
        >>> SFT(model="smollm2-135m-instruct").needs_agent
        False
        >>> SFT(model="m", source="rollouts", group_size=8, best_of_group=1).needs_agent
        True
    """

    config_class: ClassVar[type[RunConfig]] = SFTConfig

    def learner(self, policy: Policy) -> Learner:
        from agentlightning.algorithm.policy.imitation import Imitation

        return Imitation(self.config, policy)

    @property
    def reads(self) -> ReadRecord | None:
        if self.config.source == "rollouts":
            return None
        from agentlightning.learning.demonstrations import read_demonstration

        return read_demonstration
