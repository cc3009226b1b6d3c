"""The part of a configuration that every algorithm which trains a model shares.

A configuration is frozen, stored with the run, printed at its start, and the key under which a
run is continued: only what cannot change the outcome of the steps done may differ on a resume.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.earned import Earned
    from agentlightning.learning.critic import CriticConfig

__all__ = ["HistoryMode", "RunConfig", "SwapMode"]

HistoryMode = Literal["exact", "template"]
SwapMode = Literal["wait", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Model, sampling, optimiser, evaluation and checkpoints."""

    MAY_DIFFER_ON_RESUME: ClassVar[frozenset[str]] = frozenset(
        {
            "steps",
            "epochs",
            "run_dir",
            "eval_every",
            "eval_first",
            "keep",
            "learning_rate",
            "grad_norm_limit",
            "inference",
            "weights_dir",
            "device",
            "devices",
            "shard",
        }
    )

    model: str
    """A catalogue name (`smollm2-135m-instruct`), a directory, or a hub id."""
    model_alias: str | None = None
    """Name under which agents call the model; the last part of `model` by default."""

    inference: str = "embedded"
    """Who samples: `embedded`, an engine in this process, or `vllm://host:port`, a vLLM server
    that was started for it (`docs/guides/vllm.md`)."""
    weights_dir: str | None = None
    """Directory that a model server sees under the same path, for new weights; None: a temporary
    one, which only a server on this machine sees."""

    group_size: int = 8
    """Rollouts of one task in a step, which are compared with each other."""
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
    """Regular expression searched in the role of a call, or in the model name of a call without one:
    only calls that match are trained. None trains all. The role is what the client says (path,
    header `x-agl-role`), or else the agent whose span the call lies in."""
    max_staleness: int = 0
    """How many steps sampling may be ahead of training, so that no token is trained by more versions
    than this after it was sampled. 0: sampling and training take turns; 1: a step is sampled while
    the one before is trained; n: likewise n steps."""
    swap: SwapMode = "wait"
    """What becomes of answers under way when the weights change: `wait` lets them end first, `keep`
    stops them between two tokens and goes on under the new weights, so that each token has the
    version that sampled it."""
    overlap: bool = False
    """With `max_staleness`: the embedded engine samples a copy of what is trained (adapters, or the
    whole model without them), so that it goes on while a step is trained."""
    oversample: float = 1.0
    """Groups started for each that is wanted. The first to be complete are trained, the others are
    cancelled; tasks that take long are then trained less often than others."""
    adapters: Mapping[str, str] | None = None
    """Several adapters over one base, for several agents of a system: adapter name to a regular
    expression that is searched in the role of each call. The first that matches samples the call and
    learns from it; what none matches is sampled with the base and not trained. Calls must say their
    role themselves (path, or header `x-agl-role`)."""
    rollout_timeout_seconds: float = 600.0
    """Longest life of one rollout."""
    max_attempts: int = 2
    """Attempts per rollout when its runner is lost (not when the agent fails)."""
    failure_policy: Literal["reward", "exclude"] = "reward"
    """A failed rollout stays in its group with `failure_reward`, or is left out of it. Either way
    only the agent's own failures count: what the infrastructure lost never does."""
    failure_reward: float = 0.0
    max_empty_share: float = 0.5
    """The fit stops when more of a step's rollouts than this hold no trainable call."""

    learning_rate: float = 2e-5
    warmup_steps: int = 0
    """Updates over which the learning rate rises linearly; constant afterwards."""
    device: str = "auto"
    """Where the model lives: `cpu`, `cuda`, `mps`, or `auto` for a CUDA GPU if there is one."""
    devices: int | None = None
    """How many devices of this machine train, each in a process of its own with a share of the
    rows; None or 1: `device` alone. They must be of its kind: `cuda:0`, `cuda:1`, ... A program
    that trains on several must keep its start behind `if __name__ == "__main__":`."""
    shard: bool = False
    """With `devices`: cut weights, gradients and optimiser state into shards, one for each device,
    for models that one device cannot train. What samples stays whole, on `device`."""
    dtype: str = "auto"
    """`float32`, `bfloat16`, `float16`, or `auto`: bf16 where the device computes in it, fp32 for
    models under 20 million parameters. Adapters are fp32 in any case."""
    lora_rank: int | None = 16
    """Rank of the adapters on all linear layers; None trains every weight."""
    lora_alpha: int = 32
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm."""
    grad_norm_limit: float | None = None
    """The run stops, with a diagnosis, when the gradient's norm before scaling exceeds this; None:
    when it exceeds a thousand times its running median."""
    micro_batch_tokens: int = 2048
    """Most distinct tokens in one forward pass; bounds memory."""

    eval_every: int = 0
    """Evaluate after each so many steps; 0 evaluates after the last step only."""
    eval_first: bool = True
    """Evaluate before the first step too, so that there is something to compare with."""
    eval_temperature: float = 0.0
    checkpoint_every: int = 1
    keep: int = 2
    """Checkpoints kept, besides the best."""
    seed: int = 0
    run_dir: str | None = None
    """Where the run lives; None makes a new directory below `runs/`."""

    def __post_init__(self) -> None:
        for name in (
            "group_size",
            "batch_groups",
            "max_tokens",
            "max_attempts",
            "checkpoint_every",
            "keep",
        ):
            self._require(getattr(self, name) >= 1, name, "must be at least 1")
        self._require(self.steps is None or self.steps >= 1, "steps", "must be at least 1")
        self._require(self.epochs > 0, "epochs", "must be positive")
        self._require(self.temperature > 0, "temperature", "must be positive to explore")
        self._require(self.learning_rate > 0, "learning_rate", "must be positive")
        self._require(self.warmup_steps >= 0, "warmup_steps", "must not be negative")
        self._require(
            self.lora_rank is None or self.lora_rank >= 1, "lora_rank", "must be at least 1 or None"
        )
        self._require(
            self.devices is None or self.devices >= 1, "devices", "must be at least 1 or None"
        )
        self._require(not self.shard or (self.devices or 1) > 1, "shard", "needs devices=2 or more")
        self._require(
            self.grad_norm_limit is None or self.grad_norm_limit > 0,
            "grad_norm_limit",
            "must be positive or None",
        )
        self._require(0 <= self.max_empty_share <= 1, "max_empty_share", "must lie in 0..1")
        self._require_one_of("history", get_args(HistoryMode))
        self._require_one_of("swap", get_args(SwapMode))
        self._require(self.max_staleness >= 0, "max_staleness", "must not be negative")
        self._require(
            self.max_staleness >= 1 or not self.overlap,
            "overlap",
            "needs max_staleness=1 or more, or nothing is sampled while a step is trained",
        )
        self._require(1 <= self.oversample <= 10, "oversample", "must lie in 1..10")
        self._require_one_of("failure_policy", ("reward", "exclude"))
        self._check_adapters()
        try:
            re.compile(self.roles or "")
        except re.error as error:
            self._require(False, "roles", f"is not a regular expression: {error}")

    def _check_adapters(self) -> None:
        if self.adapters is None:
            return
        self._require(bool(self.adapters), "adapters", "names none: leave it out")
        self._require(self.lora_rank is not None, "lora_rank", "must be given: adapters need it")
        names = self.adapters
        self._require(
            all(name and "." not in name and "/" not in name for name in names),
            "adapters",
            "must have names without dots and slashes",
        )
        for roles in names.values():
            try:
                re.compile(roles)
            except re.error as error:
                self._require(False, "adapters", f"holds no regular expression: {error}")

    def _require(self, condition: bool, name: str, message: str) -> None:
        if not condition:
            raise ConfigurationError(f"{name}={getattr(self, name)!r} {message}.")

    def _require_one_of(self, name: str, known: tuple[str, ...] | list[str]) -> None:
        self._require(getattr(self, name) in known, name, f"is not one of {', '.join(known)}")

    def check_names(self) -> None:
        """Check the names that only the learning room knows; loads torch.

        Raises:
            ConfigurationError: One is unknown; the message lists those that are known.
        """

    def reward_of(self, earned: Earned) -> float | None:
        """Return what a rollout got as one number; None when nobody scored it."""
        return earned.final

    @property
    def refills(self) -> int:
        """How often groups without a signal may be replaced within a step."""
        return 0

    def critic(self) -> CriticConfig | None:
        """Return the critic to train beside the policy; None for an algorithm without one."""
        return None

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
        # A run of an earlier version knows nothing of fields that came since.
        before = {field.name: earlier.get(field.name, field.default) for field in fields(self)}
        return {
            name: (old, getattr(self, name))
            for name, old in before.items()
            if name not in self.MAY_DIFFER_ON_RESUME and old != getattr(self, name)
        }
