"""Adapters: each learns from the calls of its own roles, with its own denominators."""

import numpy as np
import pytest

from agentlightning.adapter.token_tree import build_token_rows
from agentlightning.learning.batch import BatchSpec, build_batch
from agentlightning.learning.credit import CallCredit, CreditSpec, ScoredRollout
from agentlightning.learning.splitting import adapter_of, split_by_adapter
from agentlightning.types import CallChoice
from tests.support.spans import make_call

ADAPTERS = {"plan": "^planner$", "code": "^coder"}


def answer(name, role, prompt, ids, start):
    choice = CallChoice(token_ids=ids, logprobs=[-1.0] * len(ids))
    return make_call(
        name, role=role, prompt_token_ids=prompt, choices=[choice], start=start, end=start + 0.5
    )


def rollout(name, reward, *calls, **given):
    rows, _ = build_token_rows(calls)
    known = tuple(
        CallCredit(call_id=c.call_id, role=c.role, started=c.start_time, ended=c.end_time)
        for c in calls
    )
    return ScoredRollout(
        rollout_id=name, group_id="g", rows=rows, reward=reward, calls=known, **given
    )


def team(name, reward, *, coder="coder-a", **given):
    """A planner whose answer the coder goes on from, in one row, and a call of nobody's."""
    return rollout(
        name,
        reward,
        answer(f"{name}p", "planner", [1, 2], [3, 4], 0),
        answer(f"{name}c", coder, [1, 2, 3, 4, 5], [6, 7, 8], 1),
        answer(f"{name}x", "critic", [1, 9], [9], 2),
        **given,
    )


def test_the_first_adapter_that_matches_has_the_call():
    """Order decides between two that match; a role that none matches has no adapter."""
    assert adapter_of("coder-2", {**ADAPTERS, "all": ""}) == "code"
    assert adapter_of("critic", ADAPTERS) is None


def test_every_sampled_token_of_a_matched_role_is_trained_once():
    """The parts train disjoint tokens of the same rows; what no adapter matches is context."""
    whole = [team("a", 1.0), team("b", 0.0)]
    parts = split_by_adapter(whole, ADAPTERS)
    masks = {
        name: [row.mask.tolist() for one in part for row in one.rows]
        for name, part in parts.items()
    }
    assert masks == {
        "plan": [[False, False, True, True, False, False, False, False]] * 2,
        "code": [[False, False, False, False, False, True, True, True]] * 2,
    }
    for part in parts["code"]:
        assert [(span.call_id[1:], span.trained) for span in part.rows[0].spans] == [
            ("p", False),
            ("c", True),
        ]


def test_each_batch_has_its_own_denominators():
    """The shares of every adapter's batch add up to one, however much the others sampled."""
    parts = split_by_adapter([team("a", 1.0), team("b", 0.0)], ADAPTERS)
    for name in ADAPTERS:
        batch, _ = build_batch(parts[name])
        assert sum(float(row.weight.sum()) for row in batch) == pytest.approx(1.0)
        assert sorted({float(row.adv[row.mask][0]) for row in batch}) == [-0.5, 0.5]


def test_who_was_not_called_is_no_part_of_the_baseline():
    """A rollout without a coder does not shift the coder's mean, but the planner's."""
    silent = rollout("c", 0.25, answer("cp", "planner", [1, 2], [3, 4], 0))
    parts = split_by_adapter([team("a", 1.0), team("b", 0.0), silent], ADAPTERS)
    _, coder = build_batch(parts["code"])
    _, planner = build_batch(parts["plan"])
    assert coder.advantages == {"a": 0.5, "b": -0.5, "c": 0.0}
    assert planner.advantages == pytest.approx({"a": 7 / 12, "b": -5 / 12, "c": -1 / 6})


def test_roles_of_one_adapter_may_have_rewards_of_their_own():
    """Credit by agent within an adapter compares each of its roles with itself."""
    rewards = {"coder-a": 3.0, "planner": 0.0}
    parts = split_by_adapter(
        [team("a", 1.0, role_rewards=rewards), team("b", 0.0), team("c", 0.0, coder="coder-b"),
         team("d", 1.0, coder="coder-b")],
        ADAPTERS,
    )  # fmt: skip
    batch, _ = build_batch(parts["code"], BatchSpec(credit=CreditSpec(kind="agent")))
    found = {row.rollout_id: float(row.adv[row.mask][0]) for row in batch}
    assert found == {"a": 1.5, "b": -1.5, "c": -0.5, "d": 0.5}
    assert all(np.isfinite(row.adv).all() for row in batch)
