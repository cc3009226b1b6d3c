"""What the keys of the reference's configuration dictionary become."""

import pytest

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.verl.translation import translate
from agentlightning.errors import ConfigurationError


def nested(**dotted):
    """Return a nested dictionary from keys with `__` for the dots, on the least that is needed."""
    config = {"actor_rollout_ref": {"model": {"path": "org/tiny"}}}
    for key, value in ({"algorithm__adv_estimator": "grpo"} | dotted).items():
        *parents, last = key.split("__")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return config


def settings(**dotted):
    return translate(nested(**dotted)).settings


# The dictionary of the reference's SQL example, as its documentation prints it.
DOCUMENTED = {
    "algorithm": {"adv_estimator": "grpo", "use_kl_in_reward": False},
    "data": {"train_batch_size": 32, "max_prompt_length": 4096, "max_response_length": 2048},
    "actor_rollout_ref": {
        "rollout": {
            "tensor_model_parallel_size": 1,
            "n": 4,
            "log_prob_micro_batch_size_per_gpu": 4,
            "multi_turn": {"format": "hermes"},
            "name": "vllm",
            "gpu_memory_utilization": 0.6,
        },
        "actor": {
            "ppo_mini_batch_size": 32,
            "ppo_micro_batch_size_per_gpu": 4,
            "optim": {"lr": 1e-6},
            "use_kl_loss": False,
            "kl_loss_coef": 0.0,
            "entropy_coeff": 0,
            "clip_ratio_low": 0.2,
            "clip_ratio_high": 0.3,
            "fsdp_config": {"param_offload": True, "optimizer_offload": True},
        },
        "ref": {"log_prob_micro_batch_size_per_gpu": 8, "fsdp_config": {"param_offload": True}},
        "model": {
            "path": "Qwen/Qwen2.5-Coder-1.5B-Instruct",
            "use_remove_padding": True,
            "enable_gradient_checkpointing": True,
        },
    },
    "trainer": {
        "n_gpus_per_node": 1,
        "val_before_train": True,
        "critic_warmup": 0,
        "logger": ["console", "wandb"],
        "project_name": "AgentLightning",
        "experiment_name": "spider",
        "nnodes": 1,
        "test_freq": 32,
        "save_freq": 64,
        "total_epochs": 2,
    },
}


def test_a_documented_dictionary_is_understood_to_its_last_key():
    """Every key is used or known to be without effect, and the settings make a configuration."""
    found = translate(DOCUMENTED)
    assert found.algorithm == "grpo"
    assert found.unknown == ()
    config = GRPOConfig(**found.settings)
    assert config.model == "Qwen/Qwen2.5-Coder-1.5B-Instruct"
    assert (config.group_size, config.batch_groups, config.mini_batches) == (4, 32, 1)
    assert (config.clip_low, config.clip_high, config.learning_rate) == (0.2, 0.3, 1e-6)
    assert (config.epochs, config.eval_every, config.checkpoint_every) == (2, 32, 64)
    assert (config.max_tokens, config.lora_rank, config.kl_coef) == (2048, None, 0.0)
    assert "actor_rollout_ref.rollout.gpu_memory_utilization" in found.without_effect
    assert [remark.split(":")[0] for remark in found.remarks] == ["trainer.logger"]


def test_missing_keys_take_the_defaults_of_verl():
    """Not ours: advantages are divided by the deviation, and the anchor is the trainer's own."""
    found = settings()
    assert found["advantage_scale"] == "group"
    assert (found["anchor"], found["correction"]) == ("trainer", "none")
    assert (found["clip_low"], found["clip_high"], found["dual_clip"]) == (0.2, 0.2, 3.0)
    assert (found["aggregate"], found["learning_rate"]) == ("token_mean", 1e-6)
    assert (found["batch_groups"], found["mini_batches"]) == (1024, 4)


def test_a_key_that_nobody_knows_is_named():
    """With its whole path, and without Hydra's mark of an addition."""
    found = translate(nested(algorithm__sorcery=1) | {"+trainer": {"moon_phase": "full"}})
    assert found.unknown == ("algorithm.sorcery", "trainer.moon_phase")


@pytest.mark.parametrize(
    ("estimator", "algorithm"),
    [
        ("grpo", "grpo"),
        ("opo", "grpo"),
        ("rloo", "rloo"),
        ("reinforce_plus_plus", "reinforce++"),
        ("reinforce_plus_plus_baseline", "reinforce++"),
        ("gae", "ppo"),
    ],
)
def test_the_estimator_decides_the_algorithm(estimator, algorithm):
    """verl has one trainer with many estimators, this package an algorithm for each."""
    assert translate(nested(algorithm__adv_estimator=estimator)).algorithm == algorithm


def test_estimators_keep_what_makes_them():
    """OPO's baseline, REINFORCE++'s baseline and PPO's discounts arrive as settings."""
    assert settings(algorithm__adv_estimator="opo")["advantage"] == "opo"
    assert settings(algorithm__adv_estimator="reinforce_plus_plus_baseline")["baseline"]
    ppo = settings(algorithm__adv_estimator="gae", algorithm__lam=0.95, critic__optim={"lr": 9e-6})
    assert (ppo["gae_lambda"], ppo["critic_learning_rate"]) == (0.95, 9e-6)
    assert settings(algorithm__norm_adv_by_std_in_grpo=False)["advantage_scale"] == "none"


def test_kl_goes_where_it_was_asked_for():
    """In the loss by `use_kl_loss`; in the reward only where the algorithm can, else said."""
    loss = {"actor_rollout_ref__actor__use_kl_loss": True}
    assert settings(**loss, actor_rollout_ref__actor__kl_loss_coef=0.01)["kl_coef"] == 0.01
    assert settings()["kl_coef"] == 0.0
    whole = GRPOConfig(**settings(**loss, actor_rollout_ref__rollout__n=4))
    assert (whole.lora_rank, whole.kl_coef) == (None, 0.001)
    reward = {"algorithm__use_kl_in_reward": True, "algorithm__kl_ctrl": {"kl_coef": 0.02}}
    found = translate(nested(**reward))
    assert found.settings["kl_coef"] == 0.02
    assert "use_kl_in_reward" in found.remarks[0]
    assert settings(**reward, algorithm__adv_estimator="gae")["kl_reward_coef"] == 0.02


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"bypass_mode": True}, {"anchor": "rollout"}),
        (
            {"rollout_is": "token", "rollout_is_threshold": 3.0},
            {"anchor": "trainer", "correction": "token_tis", "correction_high": 3.0},
        ),
        (
            {"rollout_rs": "seq_sum_k1", "rollout_rs_threshold": "0.5_2.0"},
            {"correction": "sequence_mask", "correction_low": 0.5, "correction_high": 2.0},
        ),
        (
            {"rollout_rs": "geometric", "rollout_rs_threshold": 1.25},
            {"correction": "geo_mask", "correction_low": 0.8, "correction_high": 1.25},
        ),
    ],
)
def test_rollout_correction_becomes_anchor_and_correction(given, expected):
    """verl's presets of decoupled and bypassed importance sampling."""
    found = settings(algorithm__rollout_correction=given)
    assert {name: found[name] for name in expected} == expected


def test_numbers_may_be_strings():
    """YAML reads `1e-6` as a string."""
    assert settings(actor_rollout_ref__actor__optim={"lr": "1e-5"})["learning_rate"] == 1e-5


@pytest.mark.parametrize(
    ("dotted", "message"),
    [
        ({"actor_rollout_ref__actor__optim": {"lr": "fast"}}, "optim.lr='fast' is not a number"),
        ({"actor_rollout_ref__rollout__n": 2.5}, "not a whole number"),
        ({"trainer__val_before_train": "perhaps"}, "neither true nor false"),
        ({"algorithm__adv_estimator": "remax"}, "remax.*there is grpo"),
        ({"actor_rollout_ref__actor__loss_agg_mode": "median"}, "there is token-mean"),
        ({"actor_rollout_ref__actor__ppo_mini_batch_size": 2048}, "must lie in 1..data"),
        ({"actor_rollout_ref__model__path": None}, "model.path is missing"),
        ({"actor_rollout_ref__actor__kl_loss_type": "wasserstein"}, "no counterpart"),
        ({"algorithm__rollout_correction": {"rollout_is": "word"}}, "neither token nor sequence"),
        ({"algorithm__rollout_correction": {"rollout_rs": "dice"}}, "there is seq_sum_k1"),
        (
            {
                "algorithm__rollout_correction": {
                    "rollout_rs": "geometric",
                    "rollout_rs_threshold": "wide",
                }
            },
            "is not a bound",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(dotted, message):
    """The message has the key, the value, and what there is."""
    with pytest.raises(ConfigurationError, match=message):
        translate(nested(**dotted))
