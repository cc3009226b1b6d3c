"""Records of answers, in the forms of OpenAI and TRL."""

import pytest

from agentlightning.adapter.export.formats import (
    openai_dpo,
    openai_sft,
    trl_dpo,
    trl_kto,
    trl_prompt_completion,
    trl_sft,
)
from agentlightning.adapter.export.sample import Sample
from agentlightning.adapter.export.selection import Preference
from agentlightning.errors import ConfigurationError
from agentlightning.learning.demonstrations import (
    is_record,
    read_demonstration,
    read_labelled,
    read_preference,
)

ASK = {"role": "user", "content": "2+2?"}
FOUR = {"role": "assistant", "content": "4"}
FIVE = {"role": "assistant", "content": "5"}
MORE = {"role": "user", "content": "sure?"}
YES = {"role": "assistant", "content": "yes"}


def test_every_assistant_message_is_an_answer():
    """A list of messages and a record of them say the same."""
    (bare,) = read_demonstration([ASK, FOUR, MORE, YES])
    (record,) = read_demonstration({"messages": [ASK, FOUR, MORE, YES], "tools": None})
    assert bare == record
    assert (bare.answers, bare.reward, bare.messages[0]) == ((1, 3), 1.0, ASK)


def test_messages_of_weight_0_are_context():
    """OpenAI's mark for what is not to be learnt; templates never see it."""
    (found,) = read_demonstration({"messages": [ASK, {**FOUR, "weight": 0}, MORE, YES]})
    assert found.answers == (3,)
    assert found.messages[1] == FOUR


def test_answers_of_the_prompt_are_context():
    """Of prompt and completion, only the completion is learnt; texts are messages."""
    (found,) = read_demonstration({"prompt": [ASK, FOUR, MORE], "completion": [YES]})
    assert found.answers == (3,)
    (text,) = read_demonstration({"prompt": "2+2?", "completion": "4", "reward": 0.5})
    assert (text.messages, text.answers, text.reward) == ((ASK, FOUR), (1,), 0.5)


def test_tools_and_options_come_along():
    """Tools may be JSON, as columns of data sets are."""
    tool = {"type": "function", "function": {"name": "add"}}
    record = {
        "messages": [ASK, FOUR],
        "tools": '[{"type": "function", "function": {"name": "add"}}]',
    }
    (found,) = read_demonstration({**record, "chat_template_kwargs": {"enable_thinking": False}})
    assert (found.tools, found.template_kwargs) == ((tool,), {"enable_thinking": False})


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [ASK], "chosen": [FOUR], "rejected": [FIVE]},
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"chosen": [ASK, FOUR], "rejected": [ASK, FIVE]},
        {"input": {"messages": [ASK]}, "preferred_output": [FOUR], "non_preferred_output": [FIVE]},
    ],
)
def test_preferences_of_every_form_are_the_same(record):
    """The better answer has reward 1 and the worse one 0, behind the same prompt."""
    better, worse = read_preference(record)
    assert (better.messages, better.answers, better.reward) == ((ASK, FOUR), (1,), 1.0)
    assert (worse.messages, worse.answers, worse.reward) == ((ASK, FIVE), (1,), 0.0)


@pytest.mark.parametrize("label", [True, False])
def test_labels_are_rewards(label):
    """Good is 1 and bad 0."""
    (found,) = read_labelled({"prompt": "2+2?", "completion": "4", "label": label})
    assert (found.messages, found.reward) == ((ASK, FOUR), float(label))


@pytest.mark.parametrize(
    ("read", "record", "complaint"),
    [
        (read_demonstration, "text", "not a str"),
        (read_demonstration, {"question": "2+2?"}, "no prompt and no completion"),
        (read_demonstration, {"messages": [ASK]}, "no assistant message"),
        (read_preference, {"prompt": "2+2?", "chosen": "4"}, "no rejected"),
        (read_preference, {"chosen": "4", "rejected": "5"}, "two whole conversations"),
        (read_labelled, {"prompt": "2+2?", "completion": "4"}, "no label"),
    ],
)
def test_other_records_are_refused_by_what_they_lack(read, record, complaint):
    """The message says what is missing."""
    with pytest.raises(ConfigurationError, match=complaint):
        read(record)


def sample(answer, **given):
    return Sample(
        messages=[ASK, FOUR, MORE, answer], sampled=(3,), tools=None, rollout_id="ro",
        attempt_id="at", span_id="sp", group_id="g", task=None, mode=None, status="succeeded",
        reward=0.75, rewards={}, agent=None, model=None, weight_versions=(), **given,
    )  # fmt: skip


@pytest.mark.parametrize("write", [openai_sft, trl_sft, trl_prompt_completion])
def test_exports_are_demonstrations(write):
    """What `agl export` writes is read, with the reward where the format has it."""
    (found,) = read_demonstration(write(sample(YES)))
    assert found.messages == (ASK, FOUR, MORE, YES)
    assert found.answers == ((1, 3) if write is trl_sft else (3,))
    assert found.reward == (1.0 if write is openai_sft else 0.75)


def test_exported_preferences_and_labels():
    """Likewise pairs of both formats, and labels, whatever the reward was."""
    pair = Preference(
        prompt=[ASK, FOUR, MORE], chosen=[YES], rejected=[FIVE],
        chosen_from=sample(YES), rejected_from=sample(FIVE),
    )  # fmt: skip
    for write in (openai_dpo, trl_dpo):
        better, worse = read_preference(write(pair))
        assert (better.messages[3], better.reward, better.answers) == (YES, 1.0, (3,))
        assert (worse.messages[3], worse.reward, worse.answers) == (FIVE, 0.0, (3,))
    (bad,) = read_labelled(trl_kto(sample(YES), False))
    assert (bad.messages[3], bad.reward) == (YES, 0.0)


def test_records_are_told_from_tasks():
    """By their members; a text or a number is a task."""
    assert is_record([ASK, FOUR])
    assert all(is_record({name: []}) for name in ("messages", "completion", "chosen"))
    assert not any(is_record(task) for task in ("2+2?", 7, [], {"question": "2+2?"}))
