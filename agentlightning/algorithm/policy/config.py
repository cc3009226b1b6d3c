"""The configuration of a policy optimiser: frozen, stored with the run, and its checkpoint key.

The defaults are those of `docs/algorithms/grpo.md`, which says where each comes from.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.learning.weights import Aggregate

__all__ = ["GRPOConfig"]

HistoryMode = Literal["exact", "template"]

_MAY_DIFFER_ON_RESUME = frozenset({"steps", "epochs", "run_dir", "eval_every", "keep"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPOConfig:
    """Everything that decides how GRPO learns."""

    model: str
    """A catalogue name (`smollm2-135m-instruct`), a directory, or a hub id."""
    model_alias: str | None = None
    """Name under which agents call the model; the last part of `model` by default."""

    group_size: int = 8
    """Rollouts of one task that are compared with each other."""
    batch_groups: int = 4
    """Tasks per training step."""
    steps: int | None = None
    """Training steps; None derives them from `epochs`."""
    epochs: float = 1.0
    """Passes over the training tasks, where `steps` is None."""

    temperature: float = 1.0
    """Sampling temperature of training rollouts; forced upon the agent's calls."""
    max_tokens: int = 256
    """Longest answer of one call, where the agent does not say."""
    history: HistoryMode = "exact"
    """How prompts with earlier answers are made: `exact` repeats the tokens that were sampled, so
    that a conversation is one training row; `template` lets the chat template write them anew, as
    a server without memory does, and each turn that it changes is a row of its own."""
    roles: str | None = None
    """Regular expression searched in the role of a call (header `x-agl-role`), or in the model name
    of a call without one: only calls that match are trained. None trains all."""
    rollout_timeout_seconds: float = 600.0
    """Longest life of one rollout."""
    max_attempts: int = 2
    """Attempts per rollout when its runner is lost (not when the agent fails)."""

    learning_rate: float = 2e-5
    lora_rank: int | None = 16
    """Rank of the adapters on all linear layers; None trains every weight."""
    lora_alpha: int = 32
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    micro_batch_tokens: int = 2048
    """Most distinct tokens in one forward pass; bounds memory."""

    advantage: str = "group"
    """Name of the advantage estimator: `group`, `rloo`, ..."""
    advantage_scale: Literal["none", "group", "batch"] = "none"
    """What a group-centred reward is divided by."""
    loss: str = "ppo_clip"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 3.0
    aggregate: Aggregate = "rollout_mean"
    """How token losses are weighted: `rollout_mean`, `token_mean`, ..."""
    failure_policy: Literal["reward", "exclude"] = "reward"
    """A failed rollout stays in its group with `failure_reward`, or is left out of it."""
    failure_reward: float = 0.0
    max_empty_share: float = 0.5
    """The fit stops when more of a step's rollouts than this hold no trainable call."""

    eval_every: int = 0
    """Evaluate each so many steps; 0 evaluates before the first and after the last step only."""
    eval_temperature: float = 0.0
    checkpoint_every: int = 1
    keep: int = 2
    """Checkpoints kept, besides the best."""
    seed: int = 0
    run_dir: str | None = None
    """Where the run lives; None makes a new directory below `runs/`."""
    shuffle_advantages: bool = False
    """Negative control: shuffle advantages inside each batch, so that nothing can be learnt."""

    def __post_init__(self) -> None:
        for name in ("batch_groups", "max_tokens", "max_attempts", "checkpoint_every", "keep"):
            self._require(getattr(self, name) >= 1, name, "must be at least 1")
        self._require(self.group_size >= 2, "group_size", "must be at least 2 to compare with")
        self._require(self.steps is None or self.steps >= 1, "steps", "must be at least 1")
        self._require(self.epochs > 0, "epochs", "must be positive")
        self._require(self.temperature > 0, "temperature", "must be positive to explore")
        self._require(self.learning_rate > 0, "learning_rate", "must be positive")
        self._require(
            self.lora_rank is None or self.lora_rank >= 1, "lora_rank", "must be at least 1 or None"
        )
        self._require(0 <= self.max_empty_share <= 1, "max_empty_share", "must lie in 0..1")
        modes = get_args(HistoryMode)
        self._require(self.history in modes, "history", f"is not one of {', '.join(modes)}")
        try:
            re.compile(self.roles or "")
        except re.error as error:
            self._require(False, "roles", f"is not a regular expression: {error}")

    def _require(self, condition: bool, name: str, message: str) -> None:
        if not condition:
            raise ConfigurationError(f"{name}={getattr(self, name)!r} {message}.")

    def check_names(self) -> None:
        """Check that advantage, loss and aggregate are known; loads torch.

        Raises:
            ConfigurationError: One is not; the message lists those that are.
        """
        from agentlightning.learning.advantages import advantage_names
        from agentlightning.learning.losses import loss_names
        from agentlightning.learning.weights import Aggregate

        known = {
            "advantage": advantage_names(),
            "loss": loss_names(),
            "aggregate": list(get_args(Aggregate)),
        }
        for name, names in known.items():
            self._require(getattr(self, name) in names, name, f"is not one of {', '.join(names)}")

    @property
    def alias(self) -> str:
        """Name under which agents call the model."""
        return self.model_alias or self.model.rstrip("/").rsplit("/", 1)[-1]

    def total_steps(self, tasks: int) -> int:
        """Return the number of training steps for so many training tasks."""
        if self.steps is not None:
            return self.steps
        return max(1, round(self.epochs * tasks / self.batch_groups))

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values."""
        return asdict(self)

    def difference(self, earlier: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return `name: (earlier, now)` of what differs and must not on a resume."""
        return {
            field.name: (earlier.get(field.name), getattr(self, field.name))
            for field in fields(self)
            if field.name not in _MAY_DIFFER_ON_RESUME
            and earlier.get(field.name) != getattr(self, field.name)
        }
