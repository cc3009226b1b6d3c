"""What a step gathers."""

from agentlightning.store.collections.changes import Changes, by_id
from agentlightning.types import Rollout


def test_every_step_gathers_for_itself():
    """Fresh changes are empty and share nothing."""
    one, two = Changes(), Changes()
    assert one == two
    one.queued["r"] = None
    one.events.append(None)
    assert two == Changes()
    assert one != two


def test_rollouts_by_id():
    """Rollouts are found under their ids, in their order."""
    rollouts = [Rollout(rollout_id=name, input=None, start_time=0.0) for name in "ba"]
    assert list(by_id(rollouts).items()) == [("b", rollouts[0]), ("a", rollouts[1])]
