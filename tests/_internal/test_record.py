"""Records made past validation are the records they claim to be."""

import pickle

from agentlightning._internal.record import build
from agentlightning.types import Attempt, SpanContext

FIELDS = {
    "rollout_id": "r",
    "attempt_id": "a",
    "sequence_id": 1,
    "start_time": 0.0,
    "end_time": None,
    "status": "preparing",
    "worker_id": None,
    "last_heartbeat_time": None,
    "metadata": None,
    "lease_seconds": None,
}


def test_built_record_equals_a_validated_one():
    """It compares, copies, pickles and dumps like one that was validated."""
    made, valid = build(Attempt, dict(FIELDS)), Attempt(**FIELDS)
    assert made == valid
    assert made.model_dump_json() == valid.model_dump_json()
    assert made.model_copy(update={"status": "failed"}).status == "failed"
    assert pickle.loads(pickle.dumps(made)) == valid
    made.status = "running"
    assert made.model_dump(exclude_unset=True)["status"] == "running"
    assert build(Attempt, dict(FIELDS)).status == "preparing"


def test_extra_fields_are_given_apart():
    """A class that allows more fields gets them beside its own."""
    fields = {"trace_id": "t", "span_id": "s", "is_remote": False, "trace_state": {}}
    made = build(SpanContext, fields, {"more": 1})
    assert made == SpanContext(**fields, more=1)
    assert made.more == 1
