"""PPO: its configuration, its place among the algorithms, and a fit that learns."""

import json

import numpy as np
import pytest

import agentlightning as agl
from agentlightning.algorithm.ppo import PPOConfig
from agentlightning.errors import ConfigurationError
from tests.algorithm.working import Scribe


def test_its_names_are_known():
    """The defaults are checked names; the class is exported and found by name."""
    config = agl.PPO(model="m").config
    config.check_names()
    assert isinstance(config, agl.PPOConfig)
    assert PPOConfig(**config.to_dict()) == config
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    assert isinstance(agl.Trainer(algorithm={"type": "PPO", "model": "m"}).algorithm, agl.PPO)


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "group"},
        {"advantage_scale": "batch"},
        {"zero_signal": "drop"},
        {"credit": "state"},
        {"turn_discount": 0.5},
        {"discount": 0.0},
        {"gae_lambda": 1.5},
        {"critic_learning_rate": 0.0},
        {"critic_epochs": 0},
        {"critic_warmup_steps": -1},
        {"value_clip": 0.0},
        {"kl_reward_coef": -1.0},
        {"adapters": {"a": "a"}},
    ],
)
def test_what_is_not_ppo_is_refused(settings):
    """The error names the field."""
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        agl.PPO(model="m", **settings)


def test_the_critic_has_settings_of_its_own():
    """Its learning rate is not the policy's; other algorithms have no critic."""
    critic = agl.PPO(model="m", critic_learning_rate=0.5, max_grad_norm=2.0).config.critic()
    assert (critic.lr, critic.grad_clip) == (0.5, 2.0)
    assert agl.GRPO(model="m").config.critic() is None


def fit(tiny_model, run_dir, *, tasks=("a", "b", "c", "d"), least=0.0, **settings):
    scribe = Scribe()
    scribe.grade = lambda answer: least + sum(letter.islower() for letter in answer[:2]) / 2
    fields = {
        "model": str(tiny_model), "model_alias": "tiny", "run_dir": str(run_dir), "lora_rank": None,
        "batch_groups": 16, "max_tokens": 2, "learning_rate": 2e-2, "critic_learning_rate": 1e-2,
        "checkpoint_every": 100, "progress": [],
    }  # fmt: skip
    algorithm = agl.PPO(**{**fields, **settings})
    trainer = agl.Trainer(algorithm=algorithm, n_runners=1, concurrency=16)
    return trainer.fit(scribe, list(tasks))


@pytest.mark.usefixtures("one_thread")
def test_it_learns_to_prefer_letters(tiny_model, tmp_path):
    """A model from scratch comes to answer in lower-case letters, which is what is rewarded."""
    result = fit(tiny_model, tmp_path / "run", steps=20)
    lines = [line for line in result.metrics() if line["step"]]
    rewards = [line["training/reward"] for line in lines]
    assert np.mean(rewards[:2]) < 0.3
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.3
    for name in ("values/mean", "returns/max", "advantages/min", "vf_loss", "vf_clip_fraction"):
        assert np.isfinite([line[f"critic/{name}"] for line in lines]).all()
    assert abs(lines[0]["critic/advantages/mean"]) < 1e-5
    assert lines[0]["critic/values/mean"] == 0
    assert lines[-1]["critic/values/mean"] > 0.2


@pytest.mark.usefixtures("one_thread")
def test_a_resumed_fit_keeps_its_critic(tiny_model, tmp_path):
    """Four steps in two parts are the same as in one, the critic's metrics included."""
    settings = {"batch_groups": 3, "tasks": ["a", "b", "c"], "checkpoint_every": 1, "lora_rank": 4}
    # A critic that meets no reward but zero does not change.
    settings["least"] = 0.5
    whole = fit(tiny_model, tmp_path / "whole", steps=4, **settings).metrics()
    fit(tiny_model, tmp_path / "parts", steps=2, **settings)
    parts = fit(tiny_model, tmp_path / "parts", steps=4, **settings).metrics()
    assert [line["step"] for line in parts] == [line["step"] for line in whole] == [1, 2, 3, 4]
    # What is sampled depends on the order in which calls arrive; what the critic is does not.
    assert [line["critic/values/mean"] != 0 for line in parts] == [False, True, True, True]
    exported = agl.FitResult.load(tmp_path / "parts").export(tmp_path / "model")
    assert not any("critic" in path.name for path in exported.iterdir())
