"""Records as steps: which of them, as which outcomes, and what is wrong with them."""

import pytest

from agentlightning.algorithm.policy.policy import Policy
from agentlightning.algorithm.policy.records import RecordSource
from agentlightning.algorithm.sft import SFTConfig
from agentlightning.errors import ConfigurationError
from agentlightning.learning.demonstrations import read_demonstration, read_preference

RECORDS = [{"prompt": f"{n}?", "completion": f"{n}!", "reward": n} for n in range(4)]


async def sample(store, tiny_model, dataset, read, *, step=0, **settings):
    config = SFTConfig(model=str(tiny_model), model_alias="tiny", batch_groups=4, **settings)
    policy = Policy(config, store)
    await policy.load(None)
    try:
        source = RecordSource(config, policy, read)
        done = []
        found = await source.sample(dataset, step, lambda *counts: done.append(counts))
        return found.outcomes, done
    finally:
        await policy.stop()


async def test_a_pass_reads_every_record_once(store, tiny_model):
    """Each is a group of one call, with its reward and something for a person to read."""
    outcomes, done = await sample(store, tiny_model, RECORDS, read_demonstration)
    assert sorted(outcome.reward for outcome in outcomes) == [0, 1, 2, 3]
    assert len({outcome.group_id for outcome in outcomes}) == 4
    for outcome in outcomes:
        assert (outcome.task, outcome.answer) == (
            f"{outcome.reward:.0f}?",
            f"{outcome.reward:.0f}!",
        )
        assert outcome.has_tokens
    assert done == [(4, 4)]


async def test_the_answers_of_a_record_are_a_group(store, tiny_model):
    """The better and the worse one, so that they are compared with one another."""
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    outcomes, _ = await sample(store, tiny_model, [pair], read_preference, step=1)
    groups = {outcome.group_id: [] for outcome in outcomes}
    for outcome in outcomes:
        groups[outcome.group_id].append((outcome.answer, outcome.reward))
    assert list(groups.values()) == [[("b", 1.0), ("c", 0.0)]] * 4


async def test_a_bad_record_is_named(store, tiny_model):
    """By its place in the data set."""
    with pytest.raises(ConfigurationError, match=r"Record 1 of the data set: .*no completion"):
        await sample(store, tiny_model, [RECORDS[0], {"prompt": "a"}], read_demonstration)
