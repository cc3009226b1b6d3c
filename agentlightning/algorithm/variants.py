"""The published variants of GRPO, as the settings in which each differs from our defaults.

A preset holds what its paper fixes about advantage, loss and weights. It leaves model, sampling,
optimiser and batch sizes alone, and a field that the user gives wins over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from agentlightning.errors import ConfigurationError

__all__ = ["VARIANTS", "Variant", "variant_settings"]

Variant = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo"]

_SYMMETRIC_CLIP = {"loss": "ppo_clip", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # arXiv:2402.03300, eq. 3: z-scored rewards, a mean per answer, PPO's symmetric clip. Its
        # KL term (0.04, k3) is left at 0, as every trainer has it since; set `kl_coef` for it.
        "grpo": {
            **_SYMMETRIC_CLIP,
            "advantage": "group",
            "advantage_scale": "group",
            "aggregate": "rollout_mean",
        },
        # arXiv:2503.20783: no deviation, and a constant length in place of each answer's own.
        "dr_grpo": {
            **_SYMMETRIC_CLIP,
            "advantage": "group",
            "advantage_scale": "none",
            "aggregate": "dr_grpo",
        },
        # arXiv:2503.14476: clip-higher, a mean over all tokens, soft overlong punishment, and
        # dynamic sampling.
        "dapo": {
            "loss": "ppo_clip",
            "clip_low": 0.2,
            "clip_high": 0.28,
            "dual_clip": None,
            "advantage": "group",
            "advantage_scale": "group",
            "aggregate": "token_mean",
            "overlong": "penalty",
            "zero_signal": "refill",
        },
        # arXiv:2507.18071 (v2, section 5.1): one ratio per sequence, four updates per batch.
        "gspo": {
            "loss": "gspo",
            "clip_low": 3e-4,
            "clip_high": 4e-4,
            "dual_clip": None,
            "advantage": "group",
            "advantage_scale": "group",
            "aggregate": "seq_mean_token_mean",
            "mini_batches": 4,
        },
        # arXiv:2506.13585: a detached ratio capped at 5, no lower bound, a mean over all tokens.
        "cispo": {
            "loss": "cispo",
            "clip_low": 1.0,
            "clip_high": 4.0,
            "dual_clip": None,
            "advantage": "group",
            "advantage_scale": "group",
            "aggregate": "token_mean",
        },
        # arXiv:2511.20347: a sigmoid gate, sharper for negative advantages.
        "sapo": {
            "loss": "sapo",
            "gate_positive": 1.0,
            "gate_negative": 1.05,
            "advantage": "group",
            "advantage_scale": "group",
            "aggregate": "seq_mean_token_mean",
        },
    }
)


def variant_settings(variant: str | None) -> Mapping[str, Any]:
    """Return the settings of a variant; none for None, which means our own defaults.

    Raises:
        ConfigurationError: There is no such variant.
    """
    if variant is None:
        return {}
    if variant not in VARIANTS:
        known = ", ".join(get_args(Variant))
        raise ConfigurationError(f"variant={variant!r} is not one of {known}.")
    return VARIANTS[variant]
