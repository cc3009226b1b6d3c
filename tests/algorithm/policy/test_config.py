"""What a configuration accepts, and what may change on a resume."""

import dataclasses
import json
from typing import get_args

import pytest

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.config import CreditName
from agentlightning.errors import ConfigurationError
from agentlightning.learning.credit import CreditKind


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_groups", 0),
        ("max_tokens", 0),
        ("max_attempts", 0),
        ("checkpoint_every", 0),
        ("keep", 0),
        ("group_size", 1),
        ("steps", 0),
        ("epochs", 0.0),
        ("temperature", 0.0),
        ("learning_rate", 0.0),
        ("lora_rank", 0),
        ("devices", 0),
        ("shard", True),
        ("max_empty_share", 1.5),
        ("grad_norm_limit", 0.0),
    ],
)
def test_values_out_of_range_are_named(name, value):
    """The error says which field is wrong and what it was given."""
    with pytest.raises(ConfigurationError, match=f"{name}={value!r}"):
        GRPOConfig(model="m", **{name: value})


@pytest.mark.parametrize("name", ["advantage", "loss", "aggregate"])
def test_unknown_names_are_answered_with_the_known_ones(name):
    """A misspelt estimator, loss or aggregate is refused before anything is loaded."""
    config = GRPOConfig(model="m", **{name: "nonsense"})
    known = getattr(GRPOConfig(model="m"), name)
    with pytest.raises(ConfigurationError, match=f"{name}='nonsense' is not one of .*{known}"):
        config.check_names()


def test_the_defaults_are_known_names():
    """What nobody chose works."""
    GRPOConfig(model="m").check_names()


@pytest.mark.parametrize(
    ("model", "alias"),
    [("smollm2-135m-instruct", "smollm2-135m-instruct"), ("org/name", "name"), ("/a/b/", "b")],
)
def test_the_alias_is_the_last_part_of_the_model(model, alias):
    """Agents call a model by a name without directories, unless another one is given."""
    assert GRPOConfig(model=model).alias == alias
    assert GRPOConfig(model=model, model_alias="mine").alias == "mine"


def test_steps_come_from_epochs_unless_given():
    """A pass over ten tasks in batches of four is two or three steps, and never none."""
    assert GRPOConfig(model="m", batch_groups=4, epochs=2).total_steps(10) == 5
    assert GRPOConfig(model="m", batch_groups=4, epochs=0.01).total_steps(10) == 1
    assert GRPOConfig(model="m", steps=7, epochs=2).total_steps(10) == 7


def test_a_stored_configuration_comes_back():
    """Through JSON, nothing is lost, and nothing differs."""
    config = GRPOConfig(model="m", lora_rank=None, seed=3)
    stored = json.loads(json.dumps(config.to_dict()))
    assert GRPOConfig(**stored) == config
    assert config.difference(stored) == {}


def test_only_the_length_of_a_run_and_its_upkeep_may_differ():
    """Of two runs, all settings count that decide what is learnt, and each is named."""
    stored = GRPOConfig(model="m").to_dict()
    longer = GRPOConfig(
        model="m", steps=9, epochs=3, eval_every=2, keep=5, run_dir="x", devices=2, shard=True
    )
    assert longer.difference(stored) == {}
    other = GRPOConfig(model="m", weight_decay=1.0, group_size=4)
    assert other.difference(stored) == {"weight_decay": (0.0, 1.0), "group_size": (8, 4)}


def test_history_and_roles_are_checked_when_given():
    """A word that names no mode, and what is no regular expression, are refused by name."""
    with pytest.raises(ConfigurationError, match="history='sometimes' is not one of exact"):
        GRPOConfig(model="m", history="sometimes")
    with pytest.raises(ConfigurationError, match="roles='\\(' is not a regular expression"):
        GRPOConfig(model="m", roles="(")
    assert GRPOConfig(model="m").history == "exact"


def test_a_configuration_is_frozen():
    """Nobody changes a run's settings under way."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        GRPOConfig(model="m").seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("credit", {"credit": "nonsense"}),
        ("turn_discount", {"turn_discount": 0.0}),
        ("state_weight", {"state_weight": -1.0}),
        ("reward_by_role", {"reward_by_role": {"a": "b"}}),
        ("reward_combination", {"reward_combination": "normalise_then_sum"}),
        (
            "reward_combination",
            {
                "reward_combination": "normalise_then_sum",
                "reward_weights": {"a": 1.0},
                "credit": "turn",
            },
        ),
        ("zero_signal", {"zero_signal": "nonsense"}),
        ("overlong", {"overlong": "nonsense"}),
        ("overlong_buffer", {"overlong_buffer": 0.0}),
        ("gate_positive", {"gate_positive": 0.0}),
    ],
)
def test_settings_that_do_not_go_together_are_refused(name, settings):
    """The error names the field."""
    with pytest.raises(ConfigurationError, match=f"{name}="):
        GRPOConfig(model="m", **settings)


def test_the_names_of_credit_are_those_of_the_learning_room():
    """The configuration, which loads no numpy, lists what `learning.credit` knows."""
    assert get_args(CreditName) == get_args(CreditKind)
