"""From the reference's configuration dictionary to the settings of this package's algorithms.

Keys that are missing take verl's own defaults, not ours, so that a dictionary means here what it
means there. Pure: nothing is loaded, and no setting is checked beyond its form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentlightning.algorithm.verl.flat import FlatConfig
from agentlightning.errors import ConfigurationError

__all__ = ["AlgorithmKind", "Translation", "translate"]

AlgorithmKind = Literal["grpo", "rloo", "reinforce++", "ppo"]

_ESTIMATORS: Mapping[str, str] = {
    "grpo": "grpo",
    "opo": "grpo",
    "rloo": "rloo",
    "reinforce_plus_plus": "reinforce++",
    "reinforce_plus_plus_baseline": "reinforce++",
    "gae": "ppo",
}
_LOSSES: Mapping[str, str] = {
    "vanilla": "ppo_clip",
    "gspo": "gspo",
    "cispo": "cispo",
    "sapo": "sapo",
}
_AGGREGATES: Mapping[str, str] = {
    "token-mean": "token_mean",
    "seq-mean-token-sum": "seq_mean_token_sum",
    "seq-mean-token-mean": "seq_mean_token_mean",
    "seq-mean-token-sum-norm": "seq_mean_token_sum_norm",
}
_KL_KINDS: Mapping[str, str] = {
    "kl": "k1",
    "k1": "k1",
    "mse": "k2",
    "k2": "k2",
    "low_var_kl": "k3",
    "k3": "k3",
}

_ACTOR = "actor_rollout_ref.actor."
_ROLLOUT = "actor_rollout_ref.rollout."
_MODEL = "actor_rollout_ref.model."

_WITHOUT_EFFECT = (
    # Where verl puts its workers and how it cuts their batches: here one process packs by tokens.
    f"{_ACTOR}fsdp_config.",
    f"{_ACTOR}megatron.",
    f"{_ACTOR}strategy",
    f"{_ACTOR}ppo_micro_batch_size",
    f"{_ACTOR}use_dynamic_bsz",
    f"{_ACTOR}use_torch_compile",
    f"{_ACTOR}ulysses_sequence_parallel_size",
    f"{_ACTOR}checkpoint.",
    "actor_rollout_ref.ref.",
    "actor_rollout_ref.hybrid_engine",
    f"{_MODEL}enable_gradient_checkpointing",
    f"{_MODEL}use_remove_padding",
    f"{_MODEL}trust_remote_code",
    f"{_MODEL}target_modules",
    f"{_ROLLOUT}name",
    f"{_ROLLOUT}mode",
    f"{_ROLLOUT}gpu_memory_utilization",
    f"{_ROLLOUT}tensor_model_parallel_size",
    f"{_ROLLOUT}log_prob_",
    f"{_ROLLOUT}multi_turn.",
    f"{_ROLLOUT}engine_kwargs.",
    f"{_ROLLOUT}enforce_eager",
    f"{_ROLLOUT}free_cache_engine",
    f"{_ROLLOUT}load_format",
    f"{_ROLLOUT}agent.",
    "critic.fsdp_config.",
    "critic.model.",
    "critic.ppo_micro_batch_size",
    "reward_model.",
    "custom_reward_function.",
    "ray_",
    "trainer.n_gpus_per_node",
    "trainer.nnodes",
    "trainer.balance_batch",
    "trainer.resume_mode",
    "trainer.device",
    # The datasets are given to `Trainer.fit`, and prompts are never cut.
    "data.train_files",
    "data.val_files",
    "data.val_batch_size",
    "data.max_prompt_length",
    "data.truncation",
    "data.filter_overlong_prompts",
    "data.shuffle",
    "data.return_raw_chat",
    # Names for a tracking service, and the v0.1 server's port.
    "trainer.project_name",
    "trainer.experiment_name",
    "agentlightning.port",
    # Calls whose history agrees are always one row; see "Exact history".
    "agentlightning.trace_aggregator.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """What a configuration dictionary means here."""

    algorithm: AlgorithmKind
    settings: Mapping[str, Any]
    """Fields of that algorithm's configuration."""
    quiet: bool
    """Whether the console is not among the loggers."""
    without_effect: tuple[str, ...]
    """Known keys that change nothing here."""
    unknown: tuple[str, ...]
    """Keys that nobody knows."""
    remarks: tuple[str, ...]
    """What is done otherwise than asked for."""


def translate(config: Mapping[str, Any]) -> Translation:
    """Translate a dictionary, or what behaves like one (OmegaConf's).

    Raises:
        ConfigurationError: A value makes no sense, or asks for what there is no counterpart of.
    """
    flat = FlatConfig(config)
    remarks: list[str] = []
    estimator = str(flat.take("algorithm.adv_estimator", "gae"))
    kind = _kind(estimator)
    settings = {
        **_run(flat),
        **_sampling(flat),
        **_training(flat),
        **_loss(flat, remarks),
        **_correction(flat, remarks),
        **_schedule(flat),
        **_estimation(flat, kind, estimator, remarks),
    }
    return Translation(
        algorithm=kind,
        settings=settings,
        quiet=_quiet(flat, remarks),
        without_effect=tuple(flat.present(_WITHOUT_EFFECT)),
        unknown=tuple(flat.rest(_WITHOUT_EFFECT)),
        remarks=tuple(remarks),
    )


def _kind(estimator: str) -> Any:
    if estimator not in _ESTIMATORS:
        raise ConfigurationError(
            f"algorithm.adv_estimator={estimator!r} has no counterpart here; there is "
            f"{', '.join(_ESTIMATORS)}."
        )
    return _ESTIMATORS[estimator]


def _run(flat: FlatConfig) -> dict[str, Any]:
    model = flat.take(f"{_MODEL}path", None)
    if model is None:
        raise ConfigurationError(f"{_MODEL}path is missing: it names the model to train.")
    run_dir = flat.take("trainer.default_local_dir", None)
    return {
        "model": str(model),
        "seed": flat.integer("data.seed", 0),
        "run_dir": None if run_dir is None else str(run_dir),
    }


def _sampling(flat: FlatConfig) -> dict[str, Any]:
    return {
        "temperature": flat.number(f"{_ROLLOUT}temperature", 1.0),
        "eval_temperature": flat.number(f"{_ROLLOUT}val_kwargs.temperature", 0.0),
        "group_size": flat.integer(f"{_ROLLOUT}n", 1),
        "max_tokens": flat.integer("data.max_response_length", 512),
    }


def _training(flat: FlatConfig) -> dict[str, Any]:
    batch = flat.integer("data.train_batch_size", 1024)
    mini = flat.integer(f"{_ACTOR}ppo_mini_batch_size", min(batch, 256))
    if not 1 <= mini <= batch:
        raise ConfigurationError(
            f"{_ACTOR}ppo_mini_batch_size={mini} must lie in 1..data.train_batch_size ({batch})."
        )
    rank = flat.integer(f"{_MODEL}lora_rank", 0)
    return {
        "batch_groups": batch,
        "mini_batches": math.ceil(batch / mini),
        "update_epochs": flat.integer(f"{_ACTOR}ppo_epochs", 1),
        "learning_rate": flat.number(f"{_ACTOR}optim.lr", 1e-6),
        "warmup_steps": max(0, flat.integer(f"{_ACTOR}optim.lr_warmup_steps", 0)),
        "weight_decay": flat.number(f"{_ACTOR}optim.weight_decay", 0.01),
        "max_grad_norm": flat.number(f"{_ACTOR}grad_clip", 1.0),
        "micro_batch_tokens": flat.integer(f"{_ACTOR}ppo_max_token_len_per_gpu", 2048),
        "lora_rank": rank or None,
        "lora_alpha": flat.integer(f"{_MODEL}lora_alpha", 16),
    }


def _loss(flat: FlatConfig, remarks: list[str]) -> dict[str, Any]:
    clip = flat.number(f"{_ACTOR}clip_ratio", 0.2)
    kl = flat.number(f"{_ACTOR}kl_loss_coef", 0.001)
    kl_kind = str(flat.take(f"{_ACTOR}kl_loss_type", "low_var_kl"))
    if kl_kind.endswith("+"):
        # verl's `k3+` asks for the gradient of the reverse KL, which every penalty has here.
        kl_kind = kl_kind[:-1]
    if kl_kind not in _KL_KINDS:
        raise ConfigurationError(f"{_ACTOR}kl_loss_type={kl_kind!r} has no counterpart here.")
    settings: dict[str, Any] = {
        "loss": flat.choice(f"{_ACTOR}policy_loss.loss_mode", "vanilla", _LOSSES),
        "clip_low": flat.number(f"{_ACTOR}clip_ratio_low", clip),
        "clip_high": flat.number(f"{_ACTOR}clip_ratio_high", clip),
        "dual_clip": flat.number(f"{_ACTOR}clip_ratio_c", 3.0),
        "aggregate": flat.choice(f"{_ACTOR}loss_agg_mode", "token-mean", _AGGREGATES),
        "entropy_coef": flat.number(f"{_ACTOR}entropy_coeff", 0.0),
        "kl_kind": _KL_KINDS[kl_kind],
    }
    if settings["loss"] == "gspo":
        settings["dual_clip"] = None
        settings["aggregate"] = "seq_mean_token_mean"
    uses_kl = flat.flag(f"{_ACTOR}use_kl_loss", False)
    factor = flat.take(f"{_ACTOR}loss_scale_factor", None)
    if factor is not None:
        remarks.append(
            f"{_ACTOR}loss_scale_factor={factor!r}: the constant length is max_response_length"
        )
    return settings | {"kl_coef": kl if uses_kl else 0.0}


def _correction(flat: FlatConfig, remarks: list[str]) -> dict[str, Any]:
    """Translate `algorithm.rollout_correction`, of which verl's default is none."""
    prefix = "algorithm.rollout_correction."
    weigh = flat.take(f"{prefix}rollout_is", None)
    cap = flat.number(f"{prefix}rollout_is_threshold", 2.0)
    reject = flat.take(f"{prefix}rollout_rs", None)
    bounds = flat.take(f"{prefix}rollout_rs_threshold", None)
    if flat.flag(f"{prefix}bypass_mode", False):
        if weigh is not None:
            remarks.append(
                f"{prefix}rollout_is: in bypass mode the ratio is the importance weight already"
            )
        return {"anchor": "rollout"}
    kinds = {None: "none", "token": "token_tis", "sequence": "sequence_tis"}
    if weigh not in kinds:
        raise ConfigurationError(f"{prefix}rollout_is={weigh!r} is neither token nor sequence.")
    if reject is None:
        return {"anchor": "trainer", "correction": kinds[weigh], "correction_high": cap}
    masks = {"seq_sum_k1": "sequence_mask", "sequence": "sequence_mask", "geometric": "geo_mask"}
    if reject not in masks:
        raise ConfigurationError(
            f"{prefix}rollout_rs={reject!r} has no counterpart here; there is {', '.join(masks)}."
        )
    if weigh is not None:
        remarks.append(f"{prefix}rollout_is is left out, since rollout_rs masks sequences")
    low, high = _bounds(f"{prefix}rollout_rs_threshold", bounds)
    return {
        "anchor": "trainer",
        "correction": masks[reject],
        "correction_low": low,
        "correction_high": high,
    }


def _bounds(key: str, value: Any) -> tuple[float, float]:
    """Read `"0.5_2.0"`, or one bound whose inverse is the other."""
    try:
        low, _, high = str(2.0 if value is None else value).partition("_")
        return (float(low), float(high)) if high else (1 / float(low), float(low))
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigurationError(f"{key}={value!r} is not a bound, or two like 0.5_2.0.") from error


def _schedule(flat: FlatConfig) -> dict[str, Any]:
    steps = flat.take("trainer.total_training_steps", None)
    save = flat.integer("trainer.save_freq", -1)
    return {
        "epochs": flat.number("trainer.total_epochs", 30),
        "steps": None if steps is None else int(steps),
        # Without checkpoints a killed run would begin anew, so -1 keeps ours of every step.
        "checkpoint_every": save if save > 0 else 1,
        "eval_every": max(0, flat.integer("trainer.test_freq", -1)),
        "eval_first": flat.flag("trainer.val_before_train", True),
    }


def _estimation(flat: FlatConfig, kind: str, estimator: str, remarks: list[str]) -> dict[str, Any]:
    by_std = flat.flag("algorithm.norm_adv_by_std_in_grpo", True)
    discount = flat.number("algorithm.gamma", 1.0)
    trace = flat.number("algorithm.lam", 1.0)
    in_reward = flat.flag("algorithm.use_kl_in_reward", False)
    penalty = flat.number("algorithm.kl_ctrl.kl_coef", 0.001) if in_reward else 0.0
    critic = _critic(flat)
    if kind == "ppo":
        kl = {"kl_reward_coef": penalty} if in_reward else {}
        return {"discount": discount, "gae_lambda": trace, **critic, **kl}
    if kind == "reinforce++":
        baseline = estimator.endswith("baseline")
        kl = {"kl_coef": penalty} if in_reward else {}
        return {"baseline": baseline, "discount": discount, **kl}
    if in_reward:
        remarks.append("algorithm.use_kl_in_reward: the penalty is in the loss, by its coefficient")
    kl = {"kl_coef": penalty} if in_reward else {}
    if kind == "rloo":
        return kl
    scale = "group" if by_std and estimator == "grpo" else "none"
    advantage = "opo" if estimator == "opo" else "group"
    return {"advantage": advantage, "advantage_scale": scale, **kl}


def _critic(flat: FlatConfig) -> dict[str, Any]:
    return {
        "critic_learning_rate": flat.number("critic.optim.lr", 1e-5),
        "value_clip": flat.number("critic.cliprange_value", 0.5),
        "critic_epochs": flat.integer("critic.ppo_epochs", 1),
        "critic_warmup_steps": flat.integer("trainer.critic_warmup", 0),
    }


def _quiet(flat: FlatConfig, remarks: list[str]) -> bool:
    loggers = flat.take("trainer.logger", ["console"])
    names = [loggers] if isinstance(loggers, str) else [str(name) for name in loggers]
    others = [name for name in names if name != "console"]
    if others:
        remarks.append(
            f"trainer.logger: {', '.join(others)} is not written to; metrics.jsonl in the run "
            "directory has everything"
        )
    return "console" not in names
