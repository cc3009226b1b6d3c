"""The smallest task of the learning curves, from scratch, with one algorithm of each kind."""

from pathlib import Path

import pytest

import agentlightning as agl
from agentlightning.algorithm.policy.optimizer import PolicyOptimizer
from agentlightning.algorithm.variants import VARIANTS
from benchmarks.curves.curve import Start
from benchmarks.curves.preference import ALGORITHMS, learn

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "title", ["GRPO, variant gspo", "REINFORCE++", "PPO", "SFT on the best of 8 rollouts"]
)
def test_the_share_of_a_rewarded_word_rises(title: str, tmp_path: Path):
    """A random model that says a word in one of fifty cases comes to say little else."""
    figures = learn(title, Start(seed=0, directory=tmp_path), steps=28)
    assert len(figures.rewards) == 28
    assert figures.first < 0.1
    assert figures.last > 0.75
    assert figures.after > 0.9


@pytest.mark.timeout(120)
def test_the_share_stays_where_advantages_are_shuffled(tmp_path: Path):
    """The negative control: what rollouts earned, dealt to others, does not teach the word."""
    start = Start(seed=0, directory=tmp_path, shuffled=True)
    assert learn("GRPO (our defaults)", start, steps=14).last < 0.3


def test_the_curves_leave_out_no_algorithm():
    """Every public algorithm that trains a model, and every variant, is in the table."""
    faces = {"VERL"}  # Runs one of the others.
    public = {getattr(agl, name) for name in set(agl.__all__) - faces}
    trained = {
        each for each in public if isinstance(each, type) and issubclass(each, PolicyOptimizer)
    }
    assert trained <= {make for make, _ in ALGORITHMS.values()}
    assert {own["variant"] for _, own in ALGORITHMS.values() if "variant" in own} == set(VARIANTS)
