"""KTO as an algorithm: its settings, and fits on labelled records and on rollouts."""

import json

import pytest

import agentlightning as agl
from agentlightning.algorithm.kto import KTOConfig
from agentlightning.errors import ConfigurationError
from benchmarks.curves.curve import Start
from benchmarks.curves.preference import learn

RECORDS = [
    {"prompt": f"{n}?", "completion": said, "label": said.islower()}
    for n, said in enumerate(["ab", "XY", "cd", "ZW", "ef", "QR"])
]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"good_weight": 0.0}, "good_weight"),
        ({"reference_point": "far"}, "reference_point"),
        ({"source": "records", "threshold": 0.5}, "threshold"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, complaint):
    """Each by its name."""
    with pytest.raises(ConfigurationError, match=complaint):
        KTOConfig(model="m", **settings)


def test_its_names_are_known():
    """The class is exported and found by name."""
    assert isinstance(agl.Trainer(algorithm={"type": "KTO", "model": "m"}).algorithm, agl.KTO)


@pytest.mark.usefixtures("one_thread")
def test_records_without_an_agent(tiny_model, tmp_path):
    """Good answers become likelier, bad ones less likely."""
    learning = agl.KTO(
        model=str(tiny_model), model_alias="tiny", run_dir=str(tmp_path / "run"), beta=0.5,
        source="records", batch_groups=6, steps=12, lora_rank=8, learning_rate=3e-3,
        checkpoint_every=100, progress=[],
    )  # fmt: skip
    result = agl.Trainer(algorithm=learning).fit(train_dataset=RECORDS, val_dataset=RECORDS)
    first, last = (each.metrics for each in result.evaluations)
    assert last["val/loss"] < first["val/loss"]
    assert last["val/rewards/margins"] > 0.5
    assert last["val/logps/chosen"] > first["val/logps/chosen"]
    assert last["val/logps/rejected"] < first["val/logps/rejected"]


@pytest.mark.usefixtures("one_thread")
def test_labels_of_rollouts(tmp_path):
    """Rollouts are good or bad beside their group's mean, and what is rewarded becomes more
    frequent."""
    learn("KTO", Start(seed=0, directory=tmp_path), steps=28)
    rewards = [line["training/reward"] for line in steps_of(tmp_path)]
    # It is 3.7 to 3.9 from four seeds.
    assert sum(rewards[-4:]) > sum(rewards[:4]) + 2


@pytest.mark.usefixtures("one_thread")
def test_labels_by_a_threshold(tmp_path):
    """Every rollout is good or bad, whatever the others of its group earned."""
    learn("KTO", Start(seed=0, directory=tmp_path), steps=1, threshold=0.05)
    (line,) = steps_of(tmp_path)
    assert line["training/n_good"] + line["training/n_bad"] == 16


def steps_of(folder):
    """Return what the metrics of a fit below a folder say of each step."""
    (metrics,) = folder.rglob("metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [line for line in lines if "training/reward" in line]
