"""Models of the v0.1 protocol as JSON."""

from agentlightning.types import GenericResponse, RolloutLegacy, Task, TaskIfAny


def test_shapes_are_those_of_v0_1():
    """Old clients find the fields they know."""
    task = Task(rollout_id="r", input={"q": 1})
    assert set(TaskIfAny(is_available=True, task=task).model_dump()["task"]) == {
        "rollout_id", "input", "mode", "resources_id", "create_time", "last_claim_time",
        "num_claims", "metadata",
    }  # fmt: skip
    assert RolloutLegacy(rollout_id="r").model_dump()["metadata"] == {}
    assert GenericResponse().model_dump() == {"status": "success", "message": None, "data": None}
