"""Rollouts of a store become data sets."""

import asyncio
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.adapter.export import (
    FORMATS,
    ExportOptions,
    export_rollouts,
    export_rollouts_sync,
    export_samples,
    samples_of,
)
from agentlightning.adapter.export.read import read_samples
from agentlightning.errors import ConfigurationError
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import Attempt, CallChoice, Rollout
from tests.support.chat_schema import assert_valid_messages, assert_valid_tools
from tests.support.chat_strategies import chats, messages
from tests.support.rollouts import add_rollout, said, user
from tests.support.spans import make_call, make_reward_span

TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "2"}
ASKED = said("", tool_calls=[CALL], reasoning_content="I add")
QUESTION = [{"role": "system", "content": "rules"}, user("1+1?")]


@pytest.fixture
def store():
    return InMemoryLightningStore()


async def add_tool_rollout(store, answer, **given):
    """A conversation of two calls: a tool, and the answer."""
    turns = [(QUESTION, ASKED), ([*QUESTION, ASKED, RESULT], said(answer))]
    return await add_rollout(store, turns, tools=[TOOL], **given)


async def test_openai_supervised(store):
    """One line per conversation, valid for OpenAI, without thoughts; examples weigh nothing."""
    await add_tool_rollout(store, "2", reward=1.0)
    shots = [user("a"), said("example"), user("b")]
    await add_rollout(store, [(shots, said("answer"))], reward=0.5)
    data = await export_rollouts(store, "openai-sft")
    first, second = data.records
    assert first.keys() == {"messages", "tools", "parallel_tool_calls"}
    assert [m["role"] for m in first["messages"]] == [
        *("system", "user", "assistant", "tool", "assistant")
    ]
    assert second.keys() == {"messages"}
    assert [m.get("weight") for m in second["messages"]] == [None, 0, None, None]
    for record in data.records:
        plain = [{k: v for k, v in m.items() if k != "weight"} for m in record["messages"]]
        assert_valid_messages(plain, ends_open=False)
        assert_valid_tools(record.get("tools"))
    assert [p["reward"] for p in data.provenance] == [1.0, 0.5]


async def test_trl_supervised(store):
    """Conversations keep thoughts, have arguments as objects, and say where they come from."""
    rollout = await add_tool_rollout(
        store, "2", reward=1.0, metadata={"group_id": "g"}, role="solver"
    )
    (record,) = (await export_rollouts(store, "trl-sft")).records
    call = record["messages"][2]
    assert call["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert (call["content"], call["reasoning_content"]) == ("", "I add")
    assert record["tools"] == [TOOL]
    expected = {
        "rollout_id": rollout.rollout_id,
        "attempt_id": rollout.attempt.attempt_id,
        "group_id": "g",
        "mode": "train",
        "status": "succeeded",
        "reward": 1.0,
        "agent": "solver",
        "model": "policy",
        "weight_version": 7,
    }
    assert expected.items() <= record.items()


async def test_prompt_and_completion(store):
    """The completion begins with the first thing the model said, results of tools included."""
    await add_tool_rollout(store, "2", reward=1.0)
    (record,) = (await export_rollouts(store, "trl-prompt-completion")).records
    assert record["prompt"] == QUESTION
    assert [m["role"] for m in record["completion"]] == ["assistant", "tool", "assistant"]
    options = ExportOptions(per_call=True)
    records = (await export_rollouts(store, "trl-prompt-completion", options)).records
    assert [len(r["prompt"]) for r in records] == [2, 4]
    assert [len(r["completion"]) for r in records] == [1, 1]


async def test_preferences_part_at_the_first_answer_that_differs(store):
    """Equal turns are prompt; OpenAI gets one answer each, TRL the rest of both conversations."""
    await add_tool_rollout(store, "3", reward=0.0)
    await add_tool_rollout(store, "2", reward=1.0)
    await add_tool_rollout(store, "2?", reward=0.5)
    (line,) = (await export_rollouts(store, "openai-dpo")).records
    assert [m["role"] for m in line["input"]["messages"]] == ["system", "user", "assistant", "tool"]
    assert_valid_messages(line["input"]["messages"], ends_open=False)
    assert_valid_tools(line["input"]["tools"])
    assert line["preferred_output"] == [said("2")]
    assert line["non_preferred_output"] == [said("3")]
    data = await export_rollouts(store, "trl-dpo", ExportOptions(pairs="all"))
    contents = [(r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in data.records]
    assert contents == [("2", "2?"), ("2", "3"), ("2?", "3")]
    assert {"chosen_reward": 1.0, "rejected_reward": 0.5}.items() <= data.records[0].items()
    assert data.rollouts == 3
    wide = ExportOptions(pairs="all", min_margin=0.5)
    assert len((await export_rollouts(store, "trl-dpo", wide)).records) == 1


async def test_what_makes_no_pair(store):
    """Equal rewards, lone rollouts, and tools that answered otherwise teach no preference."""
    await add_rollout(store, [([user("a")], said("x"))], task="a", reward=1.0)
    for reward in (1.0, 1.0):
        await add_rollout(store, [([user("b")], said("x"))], task="b", reward=reward)
    other = {**RESULT, "content": "error"}
    await add_tool_rollout(store, "2", task="c", reward=1.0)
    turns = [(QUESTION, ASKED), ([*QUESTION, ASKED, other], said("?"))]
    await add_rollout(store, turns, task="c", reward=0.0, tools=[TOOL])
    data = await export_rollouts(store, "trl-dpo")
    assert data.records == []
    assert data.skipped == {
        "alone in their group": 1,
        "pairs with too small a margin": 1,
        "pairs that do not part at an answer": 1,
    }


async def test_labels(store):
    """Rollouts are good or bad beside their group's mean, or by a threshold."""
    for task, reward in (("a", 1.0), ("a", 0.2), ("b", 0.3), ("b", 0.3), ("b", None)):
        await add_rollout(store, [([user(task)], said("x"))], task=task, reward=reward)
    data = await export_rollouts(store, "trl-kto")
    assert [r["label"] for r in data.records] == [True, False]
    assert data.skipped == {"of a group with equal rewards": 2, "without a reward": 1}
    data = await export_rollouts(store, "trl-kto", ExportOptions(threshold=0.3))
    assert [r["label"] for r in data.records] == [True, False, True, True]


async def test_filters(store):
    """Only ended rollouts of the wanted kinds are read, and what is left out is counted."""
    turn = [([user("q")], said("x"))]
    await add_rollout(store, turn, reward=0.9, metadata={"run_id": "1"})
    await add_rollout(store, turn, reward=0.1, mode="val")
    await add_rollout(store, turn, reward=0.5, status="failed")
    await add_rollout(store, turn, status=None)
    await add_rollout(store, [], reward=1.0)
    await add_rollout(store, turn, role="judge")

    async def rewards(**options):
        data = await export_rollouts(store, "trl-sft", ExportOptions(**options))
        return [record["reward"] for record in data.records]

    assert await rewards() == [0.9, 0.1, None]
    assert await rewards(min_reward=0.5) == [0.9]
    assert await rewards(max_reward=0.5) == [0.1]
    assert await rewards(modes=("val",)) == [0.1]
    assert await rewards(reward_name="style", min_reward=0.5) == [0.5, 0.5]
    assert await rewards(metadata={"run_id": "1"}) == [0.9]
    assert await rewards(agents="^judge$") == [None]
    assert await rewards(statuses=("succeeded", "failed"), best_of_group=2) == [0.9, 0.5]
    data = await export_rollouts(store, "trl-sft", ExportOptions(min_reward=0.5))
    assert data.skipped == {
        "rollouts with status failed": 1,
        "rollouts under way": 1,
        "rollouts without an answered model call": 1,
        "reward too low": 1,
        "without a reward": 1,
    }


async def test_late_spans_do_not_count(store):
    """What arrives after an attempt ended changes nothing of its data."""
    rollout = await add_rollout(store, [([user("q")], said("x"))], reward=0.9)
    before = await export_rollouts(store, "trl-sft")
    late = (await store.query_spans(rollout.rollout_id))[-1].model_copy(
        update={"span_id": "b" * 16, "sequence_id": 0}
    )
    late.attributes = {**late.attributes, "agentlightning.reward.0.value": 5.0}
    await store.add_span(late)
    assert (await export_rollouts(store, "trl-sft")).records == before.records


async def test_many_pages(store):
    """Rollouts beyond the first page are read, each once."""
    for number in range(120):
        await add_rollout(store, [([user(str(number))], said("x"))], task=number)
    data = await export_rollouts(store, "openai-sft")
    asked = [record["messages"][0]["content"] for record in data.records]
    assert sorted(map(int, asked)) == list(range(120))


def test_without_an_event_loop():
    """The blocking form gives the same, and so do samples that one has read oneself."""
    store = InMemoryLightningStore(thread_safe=True)
    asyncio.run(add_rollout(store, [([user("q")], said("x"))]))
    data = export_rollouts_sync(store, "openai-sft")

    async def read():
        found = [s async for s in read_samples(store, ExportOptions(), Counter())]
        return [sample for samples in found for sample in samples]

    assert export_samples(asyncio.run(read()), "openai-sft").records == data.records


@pytest.mark.parametrize("name", FORMATS)
async def test_every_format_is_json(store, name):
    """Records of all formats are JSON, also where arguments are none and texts are odd."""
    odd = {**CALL, "function": {"name": "add", "arguments": "{broken"}}
    for reward, text in ((1.0, "\u2028é"), (0.0, "b")):
        await add_rollout(store, [([user("q")], said(text, tool_calls=[odd]))], reward=reward)
    data = await export_rollouts(store, name)
    assert data.records
    assert json.loads(json.dumps(data.records)) == data.records


@settings(max_examples=60)
@given(st.lists(st.tuples(chats, messages, st.sampled_from([0.0, 1.0])), max_size=4))
def test_any_chats_give_valid_records(drawn):
    """Whatever was asked and said, OpenAI's lines hold valid messages and all formats are JSON."""
    samples = [sample for turn in enumerate(drawn) for sample in drawn_samples(*turn)]
    for record in export_samples(samples, "openai-sft").records:
        plain = [{k: v for k, v in m.items() if k != "weight"} for m in record["messages"]]
        assert_valid_messages(plain)
    for record in export_samples(samples, "openai-dpo", ExportOptions(pairs="all")).records:
        prompt = record["input"]["messages"]
        assert_valid_messages(prompt, ends_open=False)
        for side in ("preferred_output", "non_preferred_output"):
            assert_valid_messages([*prompt, *record[side]])
            assert record[side][0]["role"] == "assistant"
    for name in FORMATS:
        json.dumps(export_samples(samples, name).records)


def drawn_samples(number, turn):
    prompt, answer, reward = turn
    call = make_call(f"ca-{number}", choices=[CallChoice(message=answer)])
    call.request = {"messages": prompt}
    rollout = Rollout(rollout_id=f"r{number}", input="task", start_time=0.0, status="succeeded")
    attempt = Attempt(rollout_id=f"r{number}", attempt_id="a", sequence_id=1, start_time=0.0)
    return samples_of(rollout, attempt, [call.to_span(), make_reward_span("x", reward, 9)])


async def test_wrong_formats(store):
    """An unknown format is an error, and preferences are not made of single calls."""
    with pytest.raises(ConfigurationError, match="no format 'csv'"):
        await export_rollouts(store, "csv")
    with pytest.raises(ConfigurationError, match="per_call"):
        await export_rollouts(store, "trl-dpo", ExportOptions(per_call=True))
