"""The pure rules of outcomes."""

import pickle

import openai
import pytest

from agentlightning.errors import AgentError, AgentTimeoutError, HarnessError, RewardError
from agentlightning.runner.outcome import (
    RolloutStoppedError,
    attempt_status,
    error_record,
    outcome_of,
    stop_cause,
)
from agentlightning.runner.seal import SealReport
from agentlightning.types import Attempt, AttemptedRollout, Rollout


@pytest.mark.parametrize(
    ("error", "outcome", "status"),
    [
        (None, "ok", "succeeded"),
        (AgentError("x"), "agent_error", "failed"),
        (AgentTimeoutError("x"), "timeout", "timeout"),
        (HarnessError("x"), "harness_error", "failed"),
        (RewardError("x"), "reward_error", "failed"),
        (RolloutStoppedError("cancelled"), "cancelled", "failed"),
        (RolloutStoppedError("interrupted"), "interrupted", "failed"),
        (RolloutStoppedError("lost"), "interrupted", "failed"),
    ],
)
def test_each_error_has_an_outcome_and_a_status(error, outcome, status):
    """The taxonomy maps errors to outcome classes, and these to attempt statuses."""
    assert (outcome_of(error), attempt_status(error)) == (outcome, status)


def by_client():
    """Return an agent's failure whose cause is the client library's."""
    error = AgentError("The agent raised.")
    error.__cause__ = ValueError("a framework's own")
    error.__cause__.__cause__ = openai.OpenAIError("gone")
    return error


@pytest.mark.parametrize(
    ("error", "calls", "outcome"),
    [
        (AgentError("x"), SealReport(errors={"context_length_exceeded": 1}), "overflow"),
        (AgentError("x"), SealReport(errors={"budget_exceeded": 3}), "budget_exceeded"),
        (by_client(), SealReport(errors={"upstream_error": 1}), "engine_error"),
        (by_client(), SealReport(is_gateway_lost=True), "engine_error"),
        (by_client(), SealReport(errors={"invalid_request_error": 1}), "agent_error"),
        (AgentError("x"), SealReport(errors={"upstream_error": 1}), "agent_error"),
        (None, SealReport(errors={"context_length_exceeded": 1}), "ok"),
        (RewardError("x"), SealReport(errors={"budget_exceeded": 1}), "reward_error"),
    ],
)
def test_failed_calls_say_why_an_agent_failed(error, calls, outcome):
    """An agent that raised has the class of what its calls met; one that went on has not failed."""
    assert outcome_of(error, calls) == outcome


def test_the_record_shows_the_cause():
    """An error that wraps another is recorded as the other, with its traceback's end."""
    try:
        try:
            raise ValueError("deep")
        except ValueError as cause:
            raise AgentError("outer") from cause
    except AgentError as error:
        record = error_record(error)
    assert (record["type"], record["message"]) == ("ValueError", "deep")
    assert 'raise ValueError("deep")' in record["traceback"]


def test_long_tracebacks_keep_their_end():
    """A traceback is cut from the front."""
    record = error_record(ValueError("x" * 20_000 + "end"))
    assert len(record["traceback"]) == 8_000
    assert record["traceback"].rstrip().endswith("end")


def test_stop_errors_pickle():
    """A stop error keeps its cause over processes."""
    assert pickle.loads(pickle.dumps(RolloutStoppedError("lost"))).cause == "lost"


def rollout(status, attempt_id="at-1", attempt_status="running"):
    attempt = Attempt(
        rollout_id="ro-1", attempt_id=attempt_id, sequence_id=1, start_time=0, status=attempt_status
    )
    return AttemptedRollout(
        rollout_id="ro-1", input=None, start_time=0, status=status, attempt=attempt
    )


@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        (None, "cancelled"),
        (rollout("cancelled"), "cancelled"),
        (rollout("running"), None),
        (rollout("preparing", attempt_status="preparing"), None),
        (rollout("running", attempt_status="unresponsive"), None),
        (rollout("running", attempt_id="at-2"), "lost"),
        (rollout("requeuing"), "lost"),
        (rollout("requeuing", attempt_status="timeout"), "timeout"),
        (rollout("failed", attempt_status="timeout"), "timeout"),
        (rollout("failed"), "cancelled"),
        (rollout("succeeded"), "cancelled"),
        (Rollout(rollout_id="ro-1", input=None, start_time=0, status="queuing"), "lost"),
    ],
)
def test_the_record_says_whether_to_stop(seen, cause):
    """A worker stops when its attempt was ended or replaced, and for no other reason."""
    assert stop_cause(seen, "at-1") == cause
