"""KTO as an algorithm: its settings, and fits on labelled records and on rollouts."""

import pytest

import agentlightning as agl
from agentlightning.algorithm.kto import KTOConfig
from agentlightning.errors import ConfigurationError
from tests.algorithm.test_sft import LikesAscii

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
def test_labels_of_rollouts(lively_model, tmp_path):
    """Rollouts are good or bad by a threshold, and what is rewarded becomes more frequent."""
    learning = agl.KTO(
        model=str(lively_model), model_alias="tiny", run_dir=str(tmp_path / "run"), threshold=1.0,
        group_size=8, batch_groups=4, steps=24, max_tokens=2, lora_rank=8, learning_rate=5e-3,
        checkpoint_every=100, progress=[],
    )  # fmt: skip
    result = agl.Trainer(algorithm=learning, concurrency=32).fit(LikesAscii(), ["a", "b", "c", "d"])
    lines = result.metrics()
    rewards = [line["training/reward"] for line in lines]
    assert sum(rewards[-4:]) > sum(rewards[:4]) + 0.4
    assert lines[0]["training/n_good"] + lines[0]["training/n_bad"] == 32
