"""`VERL(config)`: the algorithm that a dictionary of the reference gives."""

import logging
import warnings

import pytest

import agentlightning as agl
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.errors import ConfigurationError
from agentlightning.trainer import Trainer
from tests.algorithm.working import Scribe


def dictionary(estimator="grpo", model="org/tiny", **trainer):
    return {
        "algorithm": {"adv_estimator": estimator},
        "data": {"train_batch_size": 2, "max_response_length": 2},
        "actor_rollout_ref": {
            "model": {"path": str(model)},
            "rollout": {"n": 3, "gpu_memory_utilization": 0.6},
            "actor": {"optim": {"lr": 0.01}},
        },
        "trainer": trainer,
    }


@pytest.mark.parametrize(
    ("estimator", "algorithm"),
    [
        ("grpo", agl.GRPO),
        ("rloo", agl.RLOO),
        ("reinforce_plus_plus", agl.ReinforcePlusPlus),
        ("gae", agl.PPO),
    ],
)
def test_every_estimator_gives_a_configured_algorithm(estimator, algorithm):
    """The settings of each translation are fields of that algorithm's configuration."""
    found = agl.VERL(dictionary(estimator), None, None)
    assert type(found) is algorithm
    assert (found.config.model, found.config.group_size) == ("org/tiny", 3)


def test_a_dictionary_without_surprises_warns_of_nothing(caplog):
    """Keys that place verl's workers are only logged."""
    caplog.set_level(logging.INFO, "agentlightning")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agl.VERL(dictionary(logger=["console"]))
    told = [record for record in caplog.records if "without effect" in record.message]
    assert told[0].keys == ["actor_rollout_ref.rollout.gpu_memory_utilization"]


def test_unknown_keys_and_other_ways_are_warned_of():
    """One warning names every unknown key, others what is done otherwise; the caller is blamed."""
    with pytest.warns(UserWarning) as caught:
        agl.VERL(dictionary(moon_phase="full", logger=["console", "wandb"]))
    assert [each.filename for each in caught] == [__file__] * 2
    assert "unknown keys are ignored: trainer.moon_phase" in str(caught[0].message)
    assert "wandb" in str(caught[1].message)


def test_parts_of_verls_trainer_are_refused():
    """There is nothing that such a class could replace."""
    with pytest.raises(ConfigurationError, match="trainer_cls and daemon_cls"):
        agl.VERL(dictionary(), trainer_cls=object)


def test_a_dictionary_trains_a_model(tiny_model, tmp_path):
    """The reference's entry point runs a fit on the embedded engine, quiet without a console."""
    config = dictionary(
        model=tiny_model,
        default_local_dir=str(tmp_path / "run"),
        total_training_steps=1,
        logger=[],
    )
    result = Trainer(algorithm=agl.VERL(config), concurrency=4).fit(Scribe(), ["a", "b"])
    assert isinstance(result, FitResult)
    assert (result.steps, result.run_dir) == (1, tmp_path / "run")
    assert "training/reward" in result.metrics()[-1]
