"""REINFORCE++: its configuration, and a fit."""

import pytest

import agentlightning as agl
from agentlightning.algorithm.reinforce_plus_plus import ReinforcePlusPlusConfig
from agentlightning.errors import ConfigurationError
from tests.algorithm.working import Scribe


def test_the_baseline_decides_the_advantage():
    """With the baseline rewards are centred in their group first; either is stored by name."""
    assert agl.ReinforcePlusPlus(model="m").config.advantage == "reward"
    config = agl.ReinforcePlusPlus(model="m", baseline=True).config
    assert isinstance(config, agl.ReinforcePlusPlusConfig)
    assert config.advantage == "group"
    config.check_names()
    assert ReinforcePlusPlusConfig(**config.to_dict()) == config


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "rloo"},
        {"discount": 0.0},
        {"discount": 1.5},
        {"credit": "turn"},
        {"adapters": {"a": "planner"}},
        {"group_size": 1, "baseline": True},
    ],
)
def test_what_is_not_reinforce_plus_plus_is_refused(settings):
    """The error names the field."""
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        agl.ReinforcePlusPlus(model="m", **settings)


def test_a_task_may_have_a_single_rollout():
    """Without the baseline nothing is compared within a group."""
    assert agl.ReinforcePlusPlus(model="m", group_size=1).config.group_size == 1


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("algorithm", [agl.RLOO, agl.ReinforcePlusPlus])
def test_a_fit_through_the_trainer(tiny_model, tmp_path, algorithm):
    """Runner, gateway, engine and step, twice."""
    made = algorithm(
        model=str(tiny_model), model_alias="tiny", run_dir=str(tmp_path / "run"), group_size=3,
        batch_groups=2, steps=2, max_tokens=2, lora_rank=None, progress=[],
    )  # fmt: skip
    result = agl.Trainer(algorithm=made, n_runners=1, concurrency=6).fit(Scribe(), ["a", "b"])
    assert result.steps == 2
    losses = [line["training/n_updates"] for line in result.metrics() if line["step"]]
    assert losses == [1.0, 1.0]
