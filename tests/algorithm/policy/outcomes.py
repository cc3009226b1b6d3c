"""Outcomes for tests of what learns from them."""

from agentlightning.algorithm.policy.earned import Earned
from agentlightning.algorithm.policy.outcome import RolloutOutcome
from tests.support.spans import make_call


def outcome(name, reward, *, group="g", kind="ok", calls=1):
    """A rollout of so many equal calls."""
    return RolloutOutcome(
        rollout_id=name,
        group_id=group,
        task={},
        reward=reward,
        outcome=kind,
        error=None,
        calls=tuple(make_call(f"{name}-{index}") for index in range(calls)),
        span_count=calls,
    )


def told(name, reward, *calls, task=None, **given):
    """A rollout of these calls."""
    return RolloutOutcome(
        rollout_id=name, group_id="g", task=task or {}, reward=reward,
        error=None, calls=calls, span_count=len(calls), **{"outcome": "ok", **given},
    )  # fmt: skip


def team(name, reward, **dimensions):
    """A rollout with a call of a planner and then one of a coder."""
    calls = (
        make_call(f"{name}0", role="planner", end=1),
        make_call(f"{name}1", role="coder", start=1, end=2, prompt_token_ids=[5]),
    )
    earned = Earned(final=reward, own=reward, closing=reward, dimensions=dimensions)
    return told(name, reward, *calls, earned=earned)


def advantages(batch):
    """Return each rollout's advantage; all its trained tokens share it."""
    found = {}
    for row in batch:
        (value,) = set(row.adv[row.mask].tolist())
        assert (row.adv[~row.mask] == 0).all()
        assert found.setdefault(row.rollout_id, value) == value
    return found
