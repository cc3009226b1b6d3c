"""Variants of GRPO by name: what they set, and that the caller's own fields win."""

import dataclasses
import json
import pickle

import pytest

import agentlightning as agl
from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.batch import loss_spec
from agentlightning.algorithm.variants import VARIANTS
from agentlightning.errors import ConfigurationError


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_variant_sets_its_fields_and_nothing_else(variant):
    """The stored configuration has the variant's name and the values it stands for."""
    config = agl.GRPO(model="m", variant=variant).config
    config.check_names()
    stored = json.loads(json.dumps(config.to_dict()))
    plain = GRPOConfig(model="m").to_dict()
    assert stored.pop("variant") == variant
    assert {k: v for k, v in stored.items() if k in VARIANTS[variant]} == VARIANTS[variant]
    assert all(stored[name] == plain[name] for name in stored.keys() - VARIANTS[variant].keys())


def test_the_callers_fields_win():
    """A field that is given beats the preset's, also where it equals our default."""
    config = GRPOConfig(model="m", variant="gspo", clip_high=0.28, mini_batches=1)
    assert (config.clip_high, config.mini_batches, config.clip_low) == (0.28, 1, 3e-4)


def test_changing_and_copying_keep_the_resolved_values():
    """`replace` and pickling neither lose a value nor apply the preset again."""
    config = GRPOConfig(model="m", variant="dapo", aggregate="rollout_mean")
    changed = dataclasses.replace(config, seed=3)
    assert changed.to_dict() == config.to_dict() | {"seed": 3}
    assert pickle.loads(pickle.dumps(config)) == config


def test_without_a_variant_the_defaults_hold():
    """None changes nothing, and an unknown name is answered with the known ones."""
    assert GRPOConfig(model="m").variant is None
    assert GRPOConfig(model="m", variant=None) == GRPOConfig(model="m")
    with pytest.raises(ConfigurationError, match="dr_grpo, dapo"):
        GRPOConfig(model="m", variant="nonsense")
    with pytest.raises(ConfigurationError, match="clip_hihg"):
        agl.GRPO(model="m", variant="dapo", clip_hihg=1.0)


def test_the_settings_reach_the_loss():
    """Gate temperatures, cap and mask are those of the configuration."""
    config = GRPOConfig(
        model="m", variant="sapo", gate_negative=1.5, is_cap=3.0, off_policy_mask=0.1
    )
    spec = loss_spec(config)
    assert (spec.name, spec.tau_positive, spec.tau_negative) == ("sapo", 1.0, 1.5)
    assert (spec.is_cap, spec.off_policy_mask) == (3.0, 0.1)
