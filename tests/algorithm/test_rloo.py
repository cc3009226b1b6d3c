"""RLOO: its configuration and what it makes of a group."""

import pytest

import agentlightning as agl
from agentlightning.algorithm.policy.batch import batch_from_outcomes, loss_spec
from agentlightning.algorithm.rloo import RLOOConfig
from agentlightning.errors import ConfigurationError
from tests.algorithm.policy.outcomes import advantages, outcome


def test_the_baseline_is_the_mean_of_the_others():
    """Rewards 1, 0, 0 are compared with 0, 1/2 and 1/2."""
    config = RLOOConfig(model="m", max_tokens=8)
    outcomes = [outcome("a", 1.0), outcome("b", 0.0), outcome("c", 0.0)]
    batch, _ = batch_from_outcomes(outcomes, config, seed="s")
    assert advantages(batch) == {"a": 1.0, "b": -0.5, "c": -0.5}
    assert [float(row.weight[-1]) for row in batch] == pytest.approx([1 / (3 * 8)] * 3)
    assert loss_spec(config).name == "reinforce_is"


@pytest.mark.parametrize(
    "settings", [{"group_size": 1}, {"advantage": "group"}, {"advantage_scale": "group"}]
)
def test_what_is_not_rloo_is_refused(settings):
    """Leave-one-out needs another one, and its advantage is what makes it RLOO."""
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        agl.RLOO(model="m", **settings)


def test_its_names_are_known():
    """The defaults are checked names; the class is exported and found by name."""
    config = agl.RLOO(model="m").config
    config.check_names()
    assert isinstance(config, agl.RLOOConfig)
    assert isinstance(agl.Trainer(algorithm={"type": "RLOO", "model": "m"}).algorithm, agl.RLOO)
