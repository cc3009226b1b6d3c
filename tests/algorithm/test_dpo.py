"""DPO as an algorithm: its settings, and fits on records and on rollouts."""

import json
from statistics import fmean

import pytest

import agentlightning as agl
from agentlightning.algorithm.dpo import DPOConfig
from agentlightning.errors import ConfigurationError
from benchmarks.curves.curve import Start
from benchmarks.curves.preference import learn

RECORDS = [
    {"prompt": f"{n}?", "chosen": chosen, "rejected": rejected}
    for n, (chosen, rejected) in enumerate([("ab", "XY"), ("cd", "ZW"), ("ef", "QR"), ("gh", "ST")])
]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"beta": 0.0}, "beta"),
        ({"group_size": 1}, "group_size"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing"),
        ({"loss": "hinge"}, "loss"),
        ({"pairs": "none"}, "pairs"),
        ({"min_margin": -1.0}, "min_margin"),
        ({"source": "nowhere"}, "source"),
        ({"update_epochs": 0}, "update_epochs"),
        ({"adapters": {"a": "a"}}, "adapters"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, complaint):
    """Each by its name."""
    with pytest.raises(ConfigurationError, match=complaint):
        DPOConfig(model="m", **settings)


def test_its_names_are_known():
    """The class is exported and found by name."""
    assert isinstance(agl.Trainer(algorithm={"type": "DPO", "model": "m"}).algorithm, agl.DPO)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("loss", "rank", "rate"), [("sigmoid", 8, 3e-3), ("ipo", 8, 3e-3), ("sigmoid", None, 1e-3)]
)
def test_records_without_an_agent(tiny_model, tmp_path, loss, rank, rate):
    """Chosen answers become likelier than before, rejected ones less likely."""
    learning = agl.DPO(
        model=str(tiny_model), model_alias="tiny", run_dir=str(tmp_path / "run"), loss=loss,
        source="records", batch_groups=4, steps=10, lora_rank=rank, learning_rate=rate,
        checkpoint_every=100, progress=[],
    )  # fmt: skip
    result = agl.Trainer(algorithm=learning).fit(train_dataset=RECORDS, val_dataset=RECORDS)
    first, last = (each.metrics for each in result.evaluations)
    assert first["val/rewards/accuracies"] < 1
    assert last["val/rewards/accuracies"] == 1
    assert last["val/loss"] < first["val/loss"]
    assert last["val/logps/chosen"] > first["val/logps/chosen"] + 0.3
    assert last["val/logps/rejected"] < first["val/logps/rejected"]


@pytest.mark.usefixtures("one_thread")
def test_pairs_of_rollouts(tmp_path):
    """Pairs are drawn from groups of rollouts, and what is rewarded becomes more frequent."""
    start = Start(seed=0, directory=tmp_path)
    learn("DPO on the best and the worst of 8", start, steps=28, pairs="all")
    (metrics,) = tmp_path.rglob("metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines = [line for line in lines if "training/reward" in line]
    rewards = [line["training/reward"] for line in lines]
    # It is 3.7 to 3.9 from five seeds.
    assert sum(rewards[-4:]) > sum(rewards[:4]) + 2
    compared = [line for line in lines if line["training/n_compared"]]
    assert compared[0]["training/n_pairs"] > 4
    # The last steps have but one pair or two each.
    assert fmean(line["training/rewards/accuracies"] for line in compared[-5:]) > 0.7
