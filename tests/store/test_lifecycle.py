"""The state machine: the tables, and that nothing ever leaves them."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import InvalidTransitionError
from agentlightning.store import lifecycle
from agentlightning.store.lifecycle import (
    ATTEMPT_TRANSITIONS,
    REOPENABLE,
    ROLLOUT_TRANSITIONS,
    begin_attempt,
    deadline,
    expiry,
    on_attempt_status,
    on_rollout_status,
    on_spans,
    on_taken_away,
)
from agentlightning.types import Attempt, AttemptStatus, Rollout, RolloutConfig, RolloutStatus

ROLLOUT_STATUSES = get_args(RolloutStatus)
ATTEMPT_STATUSES = get_args(AttemptStatus)
ENDED = {"succeeded", "failed", "cancelled"}

EVENTS = st.one_of(
    st.tuples(st.just("begin"), st.none() | st.floats(0.1, 30)),
    st.tuples(st.just("attempt"), st.integers(0, 3), st.sampled_from(ATTEMPT_STATUSES)),
    st.tuples(st.just("spans"), st.integers(0, 3)),
    st.tuples(st.just("rollout"), st.sampled_from(ROLLOUT_STATUSES)),
    st.tuples(st.just("pass"), st.floats(0, 20)),
)
CONFIGS = st.builds(
    RolloutConfig,
    timeout_seconds=st.none() | st.floats(0.1, 30),
    unresponsive_seconds=st.none() | st.floats(0.1, 30),
    max_attempts=st.integers(1, 4),
    retry_condition=st.lists(st.sampled_from(["failed", "timeout", "unresponsive"]), unique=True),
)


class World:
    """A rollout with its attempts, moved only by the functions under test."""

    def __init__(self, config: RolloutConfig):
        self.now = 100.0
        self.rollout = Rollout(rollout_id="ro", input=None, start_time=0.0, config=config)
        self.attempts: list[Attempt] = []

    def apply(self, event) -> None:
        kind, *rest = event
        if kind == "begin":
            self._begin(*rest)
        elif kind == "rollout":
            try:
                self._move(on_rollout_status(self.rollout, rest[0], now=self.now))
                self._take_away()
            except InvalidTransitionError:
                assert rest[0] not in ROLLOUT_TRANSITIONS[self.rollout.status]
        elif kind == "pass":
            self.now += rest[0]
            self._watch()
        elif self.attempts:
            self._attempt(kind, rest[0] % len(self.attempts), *rest[1:])

    def _begin(self, lease_seconds=None) -> None:
        before = self.rollout.status
        try:
            outcome = begin_attempt(
                self.rollout,
                attempt_id=f"at-{len(self.attempts)}",
                sequence_id=len(self.attempts) + 1,
                worker_id=None,
                now=self.now,
                lease_seconds=lease_seconds,
            )
        except InvalidTransitionError:
            assert before == "cancelled"
            return
        assert before != "cancelled"
        self.rollout = outcome.rollout
        assert (self.rollout.status, self.rollout.end_time) == ("preparing", None)
        self.attempts.append(outcome.attempt)

    def _attempt(self, kind, index, status=None) -> None:
        attempt, latest = self.attempts[index], index == len(self.attempts) - 1
        try:
            if kind == "spans":
                outcome = on_spans(self.rollout, attempt, latest=latest, now=self.now)
            else:
                outcome = on_attempt_status(
                    self.rollout, attempt, status, latest=latest, now=self.now
                )
        except InvalidTransitionError:
            assert status not in ATTEMPT_TRANSITIONS[attempt.status]
            return
        after = outcome.attempt
        assert after.status == attempt.status or after.status in ATTEMPT_TRANSITIONS[attempt.status]
        assert (after.end_time is not None) == lifecycle.is_ended(after)
        if outcome.late or not latest:
            assert outcome.rollout is self.rollout
        assert outcome.requeue == (
            outcome.rollout is not self.rollout and outcome.rollout.status == "requeuing"
        )
        self.attempts[index] = after
        self._move(outcome.rollout)

    def _take_away(self) -> None:
        if lifecycle.is_active(self.rollout) or not self.attempts:
            return
        live = self.attempts[-1]
        if not lifecycle.is_ended(live):
            ended = on_taken_away(self.rollout, live, now=self.now)
            assert lifecycle.is_ended(ended)
            assert ended.end_time == self.now
            self.attempts[-1] = ended

    def _watch(self) -> None:
        if self.attempts and lifecycle.is_active(self.rollout):
            live = self.attempts[-1]
            status = expiry(self.rollout, live, now=self.now)
            limit = deadline(self.rollout, live)
            assert (status is None) == (limit is None or self.now <= limit)
            if status is not None:
                self._attempt("attempt", len(self.attempts) - 1, status)

    def _move(self, after: Rollout) -> None:
        before = self.rollout
        assert after.status == before.status or after.status in ROLLOUT_TRANSITIONS[before.status]
        assert (after.end_time is not None) == (after.status in ENDED)
        if before.status in ENDED:
            assert after is before
        self.rollout = after


@given(CONFIGS, st.lists(EVENTS, max_size=40))
def test_random_events_never_leave_the_table(config, events):
    """Whatever happens in whatever order: only moves of the table, ended rollouts never move, and
    exactly the ended ones have an end time.
    """
    world = World(config)
    for event in events:
        world.apply(event)
        if not lifecycle.is_active(world.rollout) and world.attempts:
            assert lifecycle.is_ended(world.attempts[-1])


@given(CONFIGS, st.lists(EVENTS, max_size=40))
def test_cancelled_stays_cancelled(config, events):
    """Once cancelled, a rollout never has another status."""
    world = World(config)
    world.apply(("rollout", "cancelled"))
    for event in events:
        world.apply(event)
        assert world.rollout.status == "cancelled"


def test_tables_name_every_status():
    """Both tables have a row for each status and lead only to statuses that exist."""
    assert set(ROLLOUT_TRANSITIONS) == set(ROLLOUT_STATUSES)
    assert set(ATTEMPT_TRANSITIONS) == set(ATTEMPT_STATUSES)
    assert all(targets <= set(ROLLOUT_STATUSES) for targets in ROLLOUT_TRANSITIONS.values())
    assert all(targets <= set(ATTEMPT_STATUSES) for targets in ATTEMPT_TRANSITIONS.values())
    assert {status for status, targets in ROLLOUT_TRANSITIONS.items() if not targets} == ENDED
    assert "cancelled" not in REOPENABLE


def rollout(status="preparing", **config) -> Rollout:
    return Rollout(
        rollout_id="ro", input=None, start_time=0.0, status=status, config=RolloutConfig(**config)
    )


def attempt(status="running", **fields) -> Attempt:
    return Attempt(
        rollout_id="ro",
        attempt_id="at",
        start_time=10.0,
        status=status,
        **{"sequence_id": 1, **fields},
    )


@pytest.mark.parametrize("status", ["failed", "timeout", "unresponsive"])
@pytest.mark.parametrize(
    ("retry", "sequence_id", "expected"),
    [(True, 1, "requeuing"), (True, 2, "failed"), (False, 1, "failed")],
)
def test_retry_rule(status, retry, sequence_id, expected):
    """A lost attempt is retried if its status may be and attempts are left."""
    owner = rollout(max_attempts=2, retry_condition=[status] if retry else [])
    outcome = on_attempt_status(
        owner, attempt(sequence_id=sequence_id), status, latest=True, now=20.0
    )
    assert outcome.rollout.status == expected
    assert outcome.requeue == (expected == "requeuing")
    assert outcome.attempt.end_time == 20.0


def test_running_attempt_does_not_prepare_again():
    """The one forbidden move of a live attempt is refused, naming what is allowed."""
    with pytest.raises(InvalidTransitionError, match="succeeded"):
        on_attempt_status(rollout("running"), attempt(), "preparing", latest=True, now=1.0)


def test_forbidden_rollout_move_names_both_ends():
    """The error of a forbidden move says from where to where."""
    with pytest.raises(InvalidTransitionError, match="failed and cannot become running"):
        on_rollout_status(rollout("failed"), "running", now=1.0)


def test_limits_count_from_the_attempt_and_its_last_sign():
    """The timeout counts from the attempt's start, the silence from its last sign of life."""
    both = rollout(timeout_seconds=100, unresponsive_seconds=5)
    quiet = attempt()
    alive = attempt(last_heartbeat_time=50.0)
    assert deadline(both, quiet) == 15.0
    assert deadline(both, alive) == 55.0
    assert deadline(rollout(), alive) is None
    assert expiry(both, quiet, now=15.0) is None
    assert expiry(both, quiet, now=15.1) == "unresponsive"
    assert expiry(both, alive, now=15.1) is None
    assert expiry(both, alive, now=110.1) == "timeout"
    assert expiry(both, attempt("failed"), now=1e9) is None


def leased(number=1, **fields) -> Attempt:
    ids = {"rollout_id": "ro", "attempt_id": "at", "sequence_id": number}
    return Attempt(**ids, start_time=100.0, lease_seconds=10.0, **fields)


def test_lease_counts_from_the_last_sign_of_life():
    """A lease runs from the start or the last heartbeat, and not while the store was closed."""
    rollout = Rollout(rollout_id="ro", input=None, start_time=0.0, status="running")
    assert deadline(rollout, leased()) == 110.0
    assert deadline(rollout, leased(last_heartbeat_time=105.0)) == 115.0
    assert deadline(rollout, leased(), reachable_since=200.0) == 210.0
    assert expiry(rollout, leased(), now=110.0) is None
    assert expiry(rollout, leased(), now=110.1) == "unresponsive"
    assert expiry(rollout, leased(), now=205.0, reachable_since=200.0) is None
    assert expiry(rollout, leased(status="succeeded"), now=999.0) is None
    limited = rollout.model_copy(update={"config": RolloutConfig(timeout_seconds=5.0)})
    assert expiry(limited, leased(), now=110.1) == "timeout"


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_lost_workers_are_replaced_so_often(max_attempts):
    """A lost worker is replaced without a retry condition, but not for ever."""
    config = RolloutConfig(max_attempts=max_attempts)
    rollout = Rollout(rollout_id="ro", input=None, start_time=0.0, status="running", config=config)
    most = max_attempts + lifecycle.LOST_WORKERS_ALLOWED
    for number, expected in ((most - 1, "requeuing"), (most, "failed")):
        outcome = on_attempt_status(
            rollout, leased(number), "unresponsive", latest=True, now=120.0, worker_lost=True
        )
        assert outcome.rollout.status == expected
        assert outcome.requeue == (expected == "requeuing")
    outcome = on_attempt_status(rollout, leased(), "unresponsive", latest=True, now=120.0)
    assert outcome.rollout.status == "failed"
