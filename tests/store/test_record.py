"""Cheap copies of records."""

from agentlightning.store.record import attempted, replace, view
from agentlightning.types import Attempt, AttemptedRollout, Rollout, Span

ROLLOUT = Rollout(rollout_id="r", input=[1], start_time=0.0)
ATTEMPT = Attempt(rollout_id="r", attempt_id="a", sequence_id=1, start_time=0.0)


def test_replace_leaves_the_original():
    """The copy has the changes and shares the rest; the original keeps its values."""
    changed = replace(ROLLOUT, status="failed", end_time=1.0)
    assert (changed.status, changed.end_time) == ("failed", 1.0)
    assert (ROLLOUT.status, ROLLOUT.end_time) == ("queuing", None)
    assert changed.input is ROLLOUT.input
    assert changed == Rollout.model_validate(changed.model_dump())
    assert changed.model_dump(exclude_unset=True)["status"] == "failed"


def test_replace_keeps_extra_fields():
    """Fields beyond the model survive, and are not shared."""
    span = Span.from_attributes(attributes={}, rollout_id="r", attempt_id="a")
    span = Span.model_validate({**span.model_dump(), "custom": 1})
    assert replace(span, name="n").model_extra == {"custom": 1}


def test_attempted_is_the_model_it_claims_to_be():
    """The assembled record equals a validated one."""
    made = attempted(ROLLOUT, ATTEMPT)
    assert made == AttemptedRollout(**ROLLOUT.model_dump(), attempt=ATTEMPT)
    assert made.attempt is not ATTEMPT


def test_view_has_an_attempt_only_if_there_is_one():
    """Readers get a plain rollout before the first attempt."""
    assert type(view(ROLLOUT, None)) is Rollout
    assert view(ROLLOUT, None) is not ROLLOUT
    assert isinstance(view(ROLLOUT, ATTEMPT), AttemptedRollout)
