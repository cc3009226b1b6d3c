"""Properties of the gradient from calls to step: order, ranks, merging, shifts, observations.

The others of the seven have their tests beside the code: on-policy agreement of losses in
`test_step`, packing and padding in `test_forward`, shares under forks in `test_weights`.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.adapter.token_tree import build_token_rows
from agentlightning.learning.batch import BatchSpec, ScoredRollout, build_batch
from agentlightning.learning.credit import CallCredit, CreditSpec
from agentlightning.types import CallChoice
from tests.learning.test_step import close, gradient
from tests.learning.tiny import VOCABULARY, tiny_llama
from tests.support.spans import make_call

MODEL = tiny_llama()
SPECS = [
    BatchSpec(),
    BatchSpec(aggregate="token_mean"),
    BatchSpec(aggregate="prompt_mean"),
    BatchSpec(credit=CreditSpec(kind="turn", discount=0.9)),
    BatchSpec(credit=CreditSpec(kind="agent")),
]


def calls_of(rng, name, prompt):
    """Two turns in one conversation of the planner, and two parallel calls of the coder."""

    def answer():
        return [int(token) for token in rng.integers(0, VOCABULARY, int(rng.integers(1, 4)))]

    first, second = answer(), answer()
    asked = [
        ("p0", "planner", prompt, first, 0.0),
        ("p1", "planner", [*prompt, *first, 7], second, 2.0),
        ("c0", "coder", [3, *prompt], answer(), 1.0),
        ("c1", "coder", [3, *prompt], answer(), 1.0),
    ]
    return [
        make_call(
            f"{name}-{each}",
            role=role,
            prompt_token_ids=ids,
            choices=[CallChoice(token_ids=out, logprobs=[-2.0 - rng.random() for _ in out])],
            start=start,
            end=start + 0.5,
        )
        for each, role, ids, out, start in asked
    ]


def scored(name, group, reward, calls, *, merged=True):
    parts = [calls] if merged else [[call] for call in calls]
    rows = [row for part in parts for row in build_token_rows(part)[0]]
    return ScoredRollout(
        rollout_id=name,
        group_id=group,
        rows=rows,
        reward=reward,
        calls=[
            CallCredit(
                call_id=c.call_id, role=c.role, started=c.start_time, ended=c.end_time,
                reward=float(len(c.choices[0].token_ids)),
            )
            for c in calls
        ],
        role_rewards={"coder": 2.0 * reward * reward - 1.0},
    )  # fmt: skip


def rollouts(seed=0, *, merged=True, shift=0.0):
    rng = np.random.default_rng(seed)
    found = []
    for group in range(2):
        prompt = [int(token) for token in rng.integers(0, VOCABULARY, 5)]
        for member in range(3):
            name = f"{group}{member}"
            calls = calls_of(rng, name, prompt)
            reward = float(rng.integers(0, 5)) + 0.5 * member
            found.append(scored(name, f"g{group}", reward + shift, calls, merged=merged))
    return found


def step(given_rollouts, spec):
    batch, _ = build_batch(given_rollouts, spec)
    return gradient(batch.rows, model=MODEL)


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=4, deadline=None)
@given(random=st.randoms(), seed=st.integers(0, 5))
def test_the_order_of_rollouts_and_rows_does_not_matter(spec, random, seed):
    """Shuffled rollouts with shuffled rows give the same step."""
    plain = rollouts(seed)
    turned = [replace(each, rows=random.sample(each.rows, len(each.rows))) for each in plain]
    random.shuffle(turned)
    assert close(step(turned, spec), step(plain, spec))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_add_up_to_one_machine(spec, ranks):
    """However rows are dealt out, the sum of the ranks' gradients is the whole batch's."""
    batch, _ = build_batch(rollouts(), spec)
    whole = gradient(batch.rows, model=MODEL)
    dealt = [batch.rows[rank::ranks] for rank in range(ranks)]
    assert close(torch.stack([gradient(rows, model=MODEL) for rows in dealt]).sum(0), whole)


@pytest.mark.parametrize("spec", SPECS)
def test_merged_turns_learn_as_separate_ones(spec):
    """A conversation in one row has the gradient of a row for each of its calls."""
    together, apart = rollouts(merged=True), rollouts(merged=False)
    assert len(apart[0].rows) > len(together[0].rows)
    assert close(step(together, spec), step(apart, spec))


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[1], SPECS[3]])
def test_a_constant_reward_teaches_nothing(spec):
    """A constant added to every reward of a group leaves the step as it was."""
    assert close(step(rollouts(shift=7.0), spec), step(rollouts(), spec))


def test_observations_get_no_gradient():
    """The embedding of a token that is only ever predicted from nothing trained stays put."""
    batch, _ = build_batch(rollouts())
    cut = [
        replace(row, mask=row.mask & (np.arange(len(row.ids)) < 7), adv=row.adv, weight=row.weight)
        for row in batch
    ]
    changed = []
    for row in cut:
        ids = row.ids.copy()
        ids[np.flatnonzero(row.mask).max(initial=0) + 1 :] = 11
        changed.append(replace(row, ids=ids))
    assert close(gradient(changed, model=MODEL), gradient(cut, model=MODEL))
