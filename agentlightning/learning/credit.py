"""Credit: how much better than expected each *call* of a rollout was.

By default every call inherits its rollout's advantage (`advantages`). The other kinds look at
rewards that were given for single calls, at the agents that made them, or at what the calls saw.
Pure numpy over values of calls; of rows it only knows which calls they train.

The order of calls comes from their times alone: one call is after another when it started after
the other had ended. A call's *depth* is the length of the longest chain of calls before it, and its
*turn* the same among the calls of its own role. Parallel calls so share a turn, whatever way
histories are rendered, and a call gets credit for everything that it can have caused.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agentlightning.adapter.token_row import TokenRow
from agentlightning.errors import ConfigurationError
from agentlightning.learning.advantages import (
    AdvantageOptions,
    Advantages,
    Scores,
    estimate_advantages,
)

__all__ = [
    "CallCredit",
    "CreditKind",
    "CreditSpec",
    "Credited",
    "ScoredRollout",
    "call_advantages",
    "follows",
    "returns_to_go",
    "turn_numbers",
]

CreditKind = Literal["rollout", "span", "turn", "agent", "state"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCredit:
    """What is known of one call of a rollout, trained or not."""

    call_id: str
    role: str = ""
    started: float = 0.0
    """When the call began, in seconds of any clock that the rollout's calls share."""

    ended: float = 0.0
    reward: float = 0.0
    """What was given for this call; 0 where nothing was."""

    state: Hashable = None
    """What the call saw: equal for calls with the same prompt. None compares with no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRollout:
    """A finished rollout with its rows and its reward."""

    rollout_id: str
    group_id: str
    """Equal for the rollouts of one task that are compared with one another."""

    rows: Sequence[TokenRow]
    reward: float
    """NaN means "not scored": left out of the baseline and not trained. With credit by call, what
    the rollout got as a whole, beside the rewards of its calls."""

    fallback_baseline: float = 0.0
    """What to compare with when no other member of the group was scored."""

    calls: Sequence[CallCredit] = ()
    """Every call that has a row, for credit by call."""

    role_rewards: Mapping[str, float] = field(default_factory=dict[str, float])
    """Rewards of single roles; a role that is not named has the rollout's."""

    dimensions: Mapping[str, float] = field(default_factory=dict[str, float])
    """The reward's dimensions, for `normalise_then_sum`."""

    @property
    def trained_tokens(self) -> int:
        """Tokens with a gradient."""
        return sum(int(row.mask.sum()) for row in self.rows)

    def call_tokens(self) -> dict[str, int]:
        """Return the trained tokens of each call that has some."""
        sizes: dict[str, int] = {}
        for row in self.rows:
            for span in row.spans:
                if span.trained:
                    sizes[span.call_id] = sizes.get(span.call_id, 0) + span.stop - span.start
        return sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditSpec:
    """How rewards reach calls."""

    kind: CreditKind = "rollout"
    """`rollout`: every call has the rollout's advantage. `span`: and its own reward on top.
    `turn`: discounted rewards from the call on, compared turn by turn. `agent`: the advantage of
    its role's own reward. `state`: the rollout's, plus a comparison with calls that saw the same
    (GiGPO, arXiv:2505.10978)."""

    discount: float = 1.0
    """Factor on a reward for each call between it and the one that is credited."""

    state_weight: float = 1.0
    """Factor of the same-state part, `omega`."""


@dataclass(frozen=True, slots=True)
class Credited:
    """Advantages of calls."""

    calls: tuple[Mapping[str, float], ...]
    """For each rollout, the advantage of each of its trained calls, by call id; empty for a
    rollout that was not scored."""

    flat: tuple[frozenset[str], ...]
    """For each rollout, the calls whose comparison carries no signal."""


def call_advantages(
    rollouts: Sequence[ScoredRollout],
    overall: Advantages,
    spec: CreditSpec,
    *,
    estimator: str = "group",
    options: AdvantageOptions | None = None,
) -> Credited:
    """Return the advantage of every trained call.

    - `span`: `A(call) = A(rollout) + reward(call)`. Rewards of calls are used as they are: nothing
      else is comparable with them, so give them around 0.
    - `turn`: `G(call)`, see `returns_to_go`, compared by `estimator` with those of the group's
      calls of the same role and turn; of several that run in parallel, the first with the first
      ones, and so on. A call that is alone with its turn is compared with the mean of its role in
      the group.
    - `agent`: the role's reward, compared with that of the group's rollouts in which the role
      made a trained call.
    - `state`: `A(rollout) + omega * A(step)`, where the rollout's is that of all its rewards
      together, and the step's compares `G(call)` with the group's calls of the same role that
      saw the same; 0 for one that is alone.

    Args:
        rollouts: Whole groups.
        overall: Advantages of the rollouts' own rewards.
        spec: The kind of credit.
        estimator: Name of the advantage estimator.
        options: Its options.

    Raises:
        ConfigurationError: The kind is `rollout`, which has no credit by call, or unknown.
    """
    options = options or AdvantageOptions()
    sizes = [rollout.call_tokens() for rollout in rollouts]
    if spec.kind == "span":
        found = _by_span(rollouts, overall, sizes)
    elif spec.kind == "turn":
        found = _by_turn(rollouts, spec, sizes, estimator, options)
    elif spec.kind == "agent":
        return _by_agent(rollouts, sizes, estimator, options)
    elif spec.kind == "state":
        found = _by_state(rollouts, spec, sizes, estimator, options)
    else:
        raise ConfigurationError(f"credit {spec.kind!r} gives nothing to single calls")
    scored = [values if known else {} for values, known in zip(found, overall.scored, strict=True)]
    return Credited(tuple(scored), _flat_groups(rollouts, scored, options.tolerance))


def _flat_groups(
    rollouts: Sequence[ScoredRollout], values: Sequence[Mapping[str, float]], tolerance: float
) -> tuple[frozenset[str], ...]:
    """Return each rollout's calls if no call of its whole group has an advantage."""
    alive = {
        rollout.group_id
        for rollout, own in zip(rollouts, values, strict=True)
        if any(abs(value) >= tolerance for value in own.values())
    }
    return tuple(
        frozenset() if rollout.group_id in alive else frozenset(own)
        for rollout, own in zip(rollouts, values, strict=True)
    )


def _by_span(
    rollouts: Sequence[ScoredRollout], overall: Advantages, sizes: Sequence[Mapping[str, int]]
) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    for rollout, advantage, own in zip(rollouts, overall.value, sizes, strict=True):
        rewards = {call.call_id: call.reward for call in rollout.calls}
        found.append({name: float(advantage) + rewards.get(name, 0.0) for name in own})
    return found


@dataclass(frozen=True, slots=True)
class _Step:
    """One trained call, in a flat list over all rollouts."""

    rollout: int
    call: CallCredit
    turn: int
    value: float
    """Its return; NaN in a rollout that was not scored."""

    tokens: int


def _steps(
    rollouts: Sequence[ScoredRollout], spec: CreditSpec, sizes: Sequence[Mapping[str, int]]
) -> Iterator[_Step]:
    for number, (rollout, own) in enumerate(zip(rollouts, sizes, strict=True)):
        returns = returns_to_go(rollout.calls, rollout.reward, discount=spec.discount)
        turns = turn_numbers(rollout.calls)
        for call, value, turn in zip(rollout.calls, returns, turns, strict=True):
            if call.call_id in own:
                yield _Step(number, call, turn, float(value), own[call.call_id])


def _by_turn(
    rollouts: Sequence[ScoredRollout],
    spec: CreditSpec,
    sizes: Sequence[Mapping[str, int]],
    estimator: str,
    options: AdvantageOptions,
) -> list[dict[str, float]]:
    steps = list(_steps(rollouts, spec, sizes))
    of_role = [(rollouts[step.rollout].group_id, step.call.role) for step in steps]
    returns = [step.value for step in steps]
    # Calls of one rollout never are each other's baseline: they share what came after them.
    beside = _places_among_parallel(steps)
    scores = Scores.of(
        returns,
        [(*role, s.turn, place) for role, s, place in zip(of_role, steps, beside, strict=True)],
        lengths=[step.tokens for step in steps],
        fallback=Scores.of(returns, of_role).group_mean().tolist(),
    )
    return _by_rollout(rollouts, steps, estimate_advantages(estimator, scores, options).value)


def _places_among_parallel(steps: Sequence[_Step]) -> list[int]:
    """Return each step's place, by start, among those of its rollout with its role and turn."""
    places, taken = [0] * len(steps), dict[tuple[int, str, int], int]()
    by_start = sorted(range(len(steps)), key=lambda n: (steps[n].rollout, steps[n].call.started))
    for number in by_start:
        step = steps[number]
        key = (step.rollout, step.call.role, step.turn)
        places[number] = taken.get(key, 0)
        taken[key] = places[number] + 1
    return places


def _by_state(
    rollouts: Sequence[ScoredRollout],
    spec: CreditSpec,
    sizes: Sequence[Mapping[str, int]],
    estimator: str,
    options: AdvantageOptions,
) -> list[dict[str, float]]:
    totals = [rollout.reward + sum(call.reward for call in rollout.calls) for rollout in rollouts]
    episode = estimate_advantages(
        estimator,
        Scores.of(
            totals,
            [rollout.group_id for rollout in rollouts],
            lengths=[rollout.trained_tokens for rollout in rollouts],
            fallback=[rollout.fallback_baseline for rollout in rollouts],
        ),
        options,
    ).value
    steps = list(_steps(rollouts, spec, sizes))
    alone = count()
    seen = [
        (rollouts[step.rollout].group_id, step.call.role, step.call.state)
        if step.call.state is not None
        else next(alone)
        for step in steps
    ]
    returns = [step.value for step in steps]
    # A state that was seen once is its own baseline, so that its step counts for nothing.
    scores = Scores.of(returns, seen, fallback=returns)
    local = estimate_advantages("group", scores, options).value
    whole = np.array([episode[step.rollout] for step in steps])
    return _by_rollout(rollouts, steps, whole + spec.state_weight * local)


def _by_rollout(
    rollouts: Sequence[ScoredRollout], steps: Sequence[_Step], values: Floats
) -> list[dict[str, float]]:
    found: list[dict[str, float]] = [{} for _ in rollouts]
    for step, value in zip(steps, values, strict=True):
        found[step.rollout][step.call.call_id] = float(value)
    return found


def _by_agent(
    rollouts: Sequence[ScoredRollout],
    sizes: Sequence[Mapping[str, int]],
    estimator: str,
    options: AdvantageOptions,
) -> Credited:
    """Compare each role's own reward within the group, as if each role were a run of its own."""
    tokens: dict[tuple[str, int], dict[str, int]] = {}
    for number, (rollout, own) in enumerate(zip(rollouts, sizes, strict=True)):
        roles = {call.call_id: call.role for call in rollout.calls}
        for name, size in own.items():
            tokens.setdefault((roles.get(name, ""), number), {})[name] = size
    calls: list[dict[str, float]] = [{} for _ in rollouts]
    flat: list[set[str]] = [set() for _ in rollouts]
    for role in sorted({role for role, _ in tokens}):
        members = [number for number in range(len(rollouts)) if (role, number) in tokens]
        found = estimate_advantages(
            estimator,
            Scores.of(
                [_role_reward(rollouts[number], role) for number in members],
                [rollouts[number].group_id for number in members],
                lengths=[sum(tokens[role, number].values()) for number in members],
                fallback=[rollouts[number].fallback_baseline for number in members],
            ),
            options,
        )
        verdicts = zip(members, found.value, found.zero_signal, found.scored, strict=True)
        for number, value, zero, scored in verdicts:
            if scored:
                calls[number] |= dict.fromkeys(tokens[role, number], float(value))
                flat[number] |= tokens[role, number].keys() if zero else set()
    return Credited(tuple(calls), tuple(frozenset(names) for names in flat))


def _role_reward(rollout: ScoredRollout, role: str) -> float:
    if np.isnan(rollout.reward):
        return float("nan")
    return rollout.role_rewards.get(role, rollout.reward)


def follows(calls: Sequence[CallCredit]) -> NDArray[np.bool_]:
    """Return a square array: whether the second call started once the first had ended."""
    started = np.array([call.started for call in calls], dtype=np.float64)
    ended = np.array([call.ended for call in calls], dtype=np.float64)
    after = started[None, :] >= ended[:, None]
    # A call of no duration, on a coarse clock, must not follow itself or one it precedes.
    order = np.lexsort((np.arange(len(calls)), ended, started))
    rank = np.empty(len(calls), dtype=np.int64)
    rank[order] = np.arange(len(calls))
    return after & (rank[None, :] > rank[:, None])


def _depths(calls: Sequence[CallCredit]) -> NDArray[np.int64]:
    """Return the length of the longest chain of calls before each."""
    after = follows(calls)
    depth = np.zeros(len(calls), dtype=np.int64)
    for index in sorted(range(len(calls)), key=lambda i: (calls[i].started, calls[i].ended)):
        before = depth[after[:, index]]
        depth[index] = before.max() + 1 if len(before) else 0
    return depth


def turn_numbers(calls: Sequence[CallCredit]) -> list[int]:
    """Return each call's turn among the calls of its own role, from 0.

    Example:
        >>> two = [CallCredit(call_id=n, started=t, ended=t + 1.0) for n, t in [("a", 0), ("b", 1)]]
        >>> turn_numbers([*two, CallCredit(call_id="c", role="judge", started=1, ended=2)])
        [0, 1, 0]
    """
    turns = [0] * len(calls)
    for role in {call.role for call in calls}:
        places = [place for place, call in enumerate(calls) if call.role == role]
        depths = _depths([calls[place] for place in places])
        for place, depth in zip(places, depths, strict=True):
            turns[place] = int(depth)
    return turns


def returns_to_go(calls: Sequence[CallCredit], final: float, *, discount: float = 1.0) -> Floats:
    """Return, for each call, what it and everything after it brought.

    `G(c) = r(c) + sum over later c' of discount^(depth(c') - depth(c)) r(c')
    + discount^(D - depth(c)) final`, with the largest depth `D`: the final reward comes with the
    last call. Calls of all roles count, those that run in parallel to `c` do not.

    Args:
        calls: All calls of a rollout.
        final: What the rollout got at its end; NaN makes all returns NaN.
        discount: Between 0 and 1.
    """
    if not calls:
        return np.zeros(0)
    depth = _depths(calls)
    reward = np.array([call.reward for call in calls], dtype=np.float64)
    counts = follows(calls) | np.eye(len(calls), dtype=np.bool_)
    distance = np.maximum(depth[None, :] - depth[:, None], 0)
    later = np.where(counts, discount ** distance.astype(np.float64) * reward[None, :], 0.0)
    return later.sum(axis=1) + discount ** (depth.max() - depth).astype(np.float64) * final
