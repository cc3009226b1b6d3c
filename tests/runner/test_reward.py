"""Reading rewards, and grading through the real runner."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning._internal.ids import attempt_trace_id
from agentlightning.errors import RewardError
from agentlightning.litagent import LitAgent
from agentlightning.runner.reward import read_result, read_reward
from agentlightning.types import Attempt, Span, SpanCoreFields, TraceStatus
from tests.runner.test_agent import Returning, enqueue, finished, rewards

ATTEMPT = Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0)
numbers = st.one_of(st.booleans(), st.integers(-1000, 1000), st.floats(-1e6, 1e6))


@given(numbers)
def test_numbers_are_primary_rewards(value):
    """Any finite number becomes the primary dimension as a float."""
    assert read_reward(value) == {"primary": float(value)}


@given(st.dictionaries(st.text(min_size=1), numbers, min_size=1))
def test_dicts_keep_their_dimensions(value):
    """A dict keeps all its dimensions, the primary one first."""
    dimensions = read_reward(value)
    assert dimensions == {name: float(part) for name, part in value.items()}
    first = next(iter(dimensions))
    assert first == next((k for k in ("primary", "reward") if k in value), next(iter(value)))


@pytest.mark.parametrize("value", [np.float32(0.5), np.int64(3), np.bool_(True), np.array(2.0)])
def test_numpy_scalars_count_as_numbers(value):
    """Scalars of numeric libraries are read as the numbers they hold."""
    assert read_reward(value) == {"primary": float(value)}


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": math.nan}, {}, {"a": "x"}])
def test_bad_rewards_raise(value):
    """A reward that is not finite, or a dict without numbers, is refused."""
    with pytest.raises(RewardError):
        read_reward(value)


@pytest.mark.parametrize("value", ["text", object(), (1.0,), np.array([1.0, 2.0])])
def test_other_values_are_no_reward(value):
    """Anything else is no reward, and no result of an agent either."""
    assert read_reward(value) is None
    with pytest.raises(RewardError, match="returned a"):
        read_result(value, ATTEMPT)


def test_spans_of_every_make_become_the_attempts():
    """Spans that an agent returns are attributed to its attempt, whoever made them."""
    core = SpanCoreFields(
        name="core", status=TraceStatus(status_code="OK"), attributes={}, start_time=1, end_time=2
    )
    ours = Span.from_attributes(attributes={}, rollout_id="other", attempt_id="other", name="ours")
    spans = read_result([core, ours], ATTEMPT)
    assert [(s.name, s.rollout_id, s.attempt_id) for s in spans] == [
        ("core", "ro-1", "at-1"),
        ("ours", "ro-1", "at-1"),
    ]
    assert spans[0].trace_id == attempt_trace_id("ro-1", "at-1")
    assert spans[1].span_id == ours.span_id


def test_lists_of_other_things_raise():
    """A list may hold nothing but spans."""
    with pytest.raises(RewardError, match="must hold spans"):
        read_result([1.0], ATTEMPT)


@pytest.mark.parametrize(
    ("returned", "stored"),
    [(0.5, [0.5]), (1, [1.0]), (True, [1.0]), ({"a": 2, "reward": 3}, [3.0]), (None, []), ([], [])],
)
async def test_returned_rewards_are_stored(store, working, returned, stored):
    """Numbers and dicts are stored as one annotation, None and no spans as nothing."""
    ids = await enqueue(store, [returned])
    async with working(Returning()):
        (item,) = await finished(store, ids)
    assert item.status == "succeeded"
    assert rewards(await store.query_spans(ids[0])) == stored


async def test_every_dimension_is_stored(store, working):
    """A dict reward keeps its names and values in one span of the attempt's trace."""
    ids = await enqueue(store, [{"style": 0.1, "primary": 0.9}])
    async with working(Returning()):
        (item,) = await finished(store, ids)
    (span,) = await store.query_spans(ids[0])
    assert span.name == "agentlightning.annotation"
    assert span.trace_id == attempt_trace_id(ids[0], item.attempt.attempt_id)
    assert span.attributes == {
        "agentlightning.reward.0.name": "primary",
        "agentlightning.reward.0.value": 0.9,
        "agentlightning.reward.1.name": "style",
        "agentlightning.reward.1.value": 0.1,
    }


@pytest.mark.parametrize("nonsense", ["text", {"a": "b"}, [1, 2], float("nan")])
async def test_nonsense_is_a_reward_error(store, working, nonsense):
    """What is no reward fails the attempt as `reward_error`, saying what would do."""
    ids = await enqueue(store, [nonsense])
    async with working(Returning()):
        (item,) = await finished(store, ids)
    assert (item.status, item.attempt.metadata["outcome"]) == ("failed", "reward_error")
    assert item.attempt.metadata["error"]["type"] == "RewardError"


class Answering(LitAgent[Any]):
    def rollout(self, task, resources, rollout):
        return {"answer": task.upper(), "parts": ["x", 1]}


async def test_reward_functions_grade_outputs(store, working):
    """A sync reward function gets task and output; the output is kept on the attempt."""

    def grade(task, output):
        return 1.0 if output["answer"] == task.upper() else 0.0

    ids = await enqueue(store, ["word"])
    async with working(Answering(), reward_fn=grade):
        (item,) = await finished(store, ids)
    assert rewards(await store.query_spans(ids[0])) == [1.0]
    assert item.attempt.metadata["output"] == {"answer": "WORD", "parts": ["x", 1]}


async def test_async_reward_functions_see_spans_and_rollout(store, working):
    """An async reward function that asks gets the stored spans and the rollout."""
    seen = {}

    class Emitting(LitAgent[Any]):
        async def rollout_async(self, task, resources, rollout):
            self.tracer.create_span("tool-call")
            return "done"

    async def grade(task, output, *, spans, rollout):
        seen["names"] = [span.name for span in spans]
        seen["rollout"] = rollout.rollout_id
        return {"quality": 0.5}

    ids = await enqueue(store, ["word"])
    async with working(Emitting(), reward_fn=grade):
        await finished(store, ids)
    assert seen == {"names": ["tool-call"], "rollout": ids[0]}
    assert rewards(await store.query_spans(ids[0])) == [0.5]


@pytest.mark.parametrize("behaviour", ["raises", "none"])
async def test_bad_reward_functions_are_reward_errors(store, working, behaviour):
    """A reward function that raises, or returns no reward, fails the attempt, output kept."""

    def grade(task, output):
        if behaviour == "raises":
            raise ZeroDivisionError("grader")

    ids = await enqueue(store, ["word"])
    async with working(Answering(), reward_fn=grade):
        (item,) = await finished(store, ids)
    metadata = item.attempt.metadata
    assert metadata["outcome"] == "reward_error"
    expected = "ZeroDivisionError" if behaviour == "raises" else "RewardError"
    assert metadata["error"]["type"] == expected
    assert metadata["output"]["answer"] == "WORD"
