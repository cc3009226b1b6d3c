"""Rollouts, attempts and their configuration as JSON and Python."""

import pytest
from pydantic import ValidationError

from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    EnqueueRolloutRequest,
    Rollout,
    RolloutConfig,
)


def attempt(rollout_id: str = "ro-1") -> Attempt:
    return Attempt(rollout_id=rollout_id, attempt_id="at-1", sequence_id=1, start_time=1.0)


def test_json_has_every_field_with_its_default():
    """The JSON shape is the contract's."""
    rollout = Rollout(rollout_id="ro-1", input=None, start_time=1.0)
    assert rollout.model_dump(mode="json") == {
        "rollout_id": "ro-1",
        "input": None,
        "start_time": 1.0,
        "end_time": None,
        "mode": None,
        "resources_id": None,
        "status": "queuing",
        "config": {
            "timeout_seconds": None,
            "unresponsive_seconds": None,
            "max_attempts": 1,
            "retry_condition": [],
        },
        "metadata": None,
    }
    assert attempt().status == "preparing"


def test_input_is_required_though_it_may_be_none():
    """A task must be given, even if it is None."""
    with pytest.raises(ValidationError):
        EnqueueRolloutRequest.model_validate({})
    assert EnqueueRolloutRequest.model_validate({"input": None}).rollout_id is None


def test_attempt_must_belong_to_its_rollout():
    """An attempt of another rollout is refused."""
    fields = {"rollout_id": "ro-1", "input": 1, "start_time": 1.0}
    assert AttemptedRollout(**fields, attempt=attempt()).attempt.attempt_id == "at-1"
    with pytest.raises(ValueError, match="not to ro-1"):
        AttemptedRollout(**fields, attempt=attempt("ro-2"))


def test_at_least_one_attempt():
    """Zero attempts make no sense."""
    with pytest.raises(ValidationError):
        RolloutConfig(max_attempts=0)
