"""SFT as an algorithm: on demonstrations without an agent, on its own rollouts, and before GRPO."""

import pytest

import agentlightning as agl
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.algorithm.sft import SFTConfig
from agentlightning.errors import ConfigurationError
from benchmarks.curves.curve import Start
from benchmarks.curves.preference import learn
from tests.algorithm.working import Scribe, Watcher

WORDS = ["ab", "cd", "ef", "gh"]
DEMONSTRATIONS = [{"prompt": word, "completion": word[::-1]} for word in WORDS]


class Reverser(Scribe):
    """Earns 1 for the task's word backwards."""

    def __init__(self):
        super().__init__()
        self.options = {"max_tokens": 3}

    async def rollout_async(self, task, resources, rollout):
        word = task if isinstance(task, str) else task["prompt"]
        return float(await self.ask(word, resources, rollout) == word[::-1])


def sft(tiny_model, tmp_path, **settings):
    fields = {"lora_rank": None, "learning_rate": 1e-2, "checkpoint_every": 100, "progress": []}
    return agl.SFT(
        model=str(tiny_model), model_alias="tiny", run_dir=str(tmp_path / "run"),
        **{**fields, **settings},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"source": "nowhere"}, "source"),
        ({"group_size": 4}, "group_size"),
        ({"best_of_group": 1}, "best_of_group"),
        ({"source": "rollouts"}, "imitates all"),
        ({"source": "rollouts", "group_size": 4, "best_of_group": 4}, "best_of_group"),
        ({"update_epochs": 0}, "update_epochs"),
        ({"adapters": {"a": "a"}}, "adapters"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, complaint):
    """Each by its name."""
    with pytest.raises(ConfigurationError, match=complaint):
        SFTConfig(model="m", **settings)


def test_its_names_are_known():
    """The class is exported and found by name; constant lengths mean nothing here."""
    assert isinstance(agl.Trainer(algorithm={"type": "SFT", "model": "m"}).algorithm, agl.SFT)
    agl.SFT(model="m").config.check_names()
    with pytest.raises(ConfigurationError, match="aggregate"):
        agl.SFT(model="m", aggregate="dr_grpo").config.check_names()


def test_rollouts_need_an_agent():
    """Demonstrations do not."""
    trainer = agl.Trainer(algorithm=agl.SFT(model="m", source="rollouts", min_reward=1.0))
    with pytest.raises(ConfigurationError, match="needs an agent"):
        trainer.fit(train_dataset=["a"])


@pytest.mark.usefixtures("one_thread")
def test_demonstrations_then_grpo(tiny_model, tmp_path):
    """Without an agent it learns to reverse words; GRPO goes on from what it exported."""
    watcher = Watcher()
    learning = sft(
        tiny_model, tmp_path, batch_groups=4, steps=60, learning_rate=5e-3, progress=[watcher]
    )  # fmt: skip
    result = agl.Trainer(algorithm=learning).fit(
        train_dataset=DEMONSTRATIONS, val_dataset=DEMONSTRATIONS
    )
    first, last = result.evaluations
    assert first.metrics["val/loss"] > 4
    assert last.metrics["val/loss"] < 0.2
    assert result.best == last
    assert last.reward == -last.metrics["val/loss"]
    lines = [line["val/loss"] for line in result.metrics() if "val/loss" in line]
    assert lines == [e.metrics["val/loss"] for e in result.evaluations]
    assert watcher.reports[0].best.answer in {word[::-1] for word in WORDS}
    assert not watcher.warnings

    exported = result.export(tmp_path / "exported")
    going_on = agl.GRPO(
        model=str(exported), run_dir=str(tmp_path / "grpo"), group_size=8, batch_groups=4,
        steps=1, max_tokens=3, lora_rank=None, progress=[],
    )  # fmt: skip
    fit = agl.Trainer(algorithm=going_on, concurrency=32).fit(Reverser(), WORDS, val_dataset=WORDS)
    assert (fit.steps, fit.evaluations[0].tasks) == (1, 4)
    # Sampled at temperature 1, an untrained model of 264 tokens never says the right one.
    # Nearly all are right now.
    assert fit.metrics()[1]["training/reward"] > 0.5


@pytest.mark.usefixtures("one_thread")
def test_an_agent_does_held_out_tasks(tiny_model, tmp_path):
    """With an agent, held-out demonstrations are tasks too: there is a reward beside the loss."""
    learning = sft(tiny_model, tmp_path, batch_groups=4, steps=1)
    result = agl.Trainer(algorithm=learning, concurrency=8).fit(
        Reverser(), DEMONSTRATIONS, val_dataset=DEMONSTRATIONS[:2]
    )
    for evaluation in result.evaluations:
        assert 0 <= evaluation.reward <= 1
        assert evaluation.metrics["val/loss"] > 0
        assert evaluation.tasks == 2


@pytest.mark.usefixtures("one_thread")
def test_the_best_rollouts_are_imitated(tmp_path):
    """Step after step the model imitates the best of each group, and earns more."""
    learn("SFT on the best of 8 rollouts", Start(seed=0, directory=tmp_path), steps=20)
    lines = FitResult.load(tmp_path / "run").metrics()
    lines = [line for line in lines if "training/reward" in line]
    rewards = [line["training/reward"] for line in lines]
    # It is 0.8 to 0.9 from five seeds.
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2
    assert {line["training/kept_share"] for line in lines} == {1 / 8}
