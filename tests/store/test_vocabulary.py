"""The contract's words: its sentinel and its predicates."""

import copy
import pickle

import pytest

from agentlightning.store.vocabulary import UNSET, Unset, is_finished, is_queuing, is_running
from agentlightning.types import Rollout


def test_unset_is_one_object():
    """The sentinel stays itself through copies and pickles, and is false."""
    assert Unset() is UNSET
    assert pickle.loads(pickle.dumps(UNSET)) is UNSET
    assert copy.deepcopy(UNSET) is UNSET
    assert not UNSET
    assert repr(UNSET) == "UNSET"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("queuing", "q"),
        ("requeuing", "q"),
        ("preparing", "r"),
        ("running", "r"),
        ("succeeded", "f"),
        ("failed", "f"),
        ("cancelled", "f"),
    ],
)
def test_predicates_part_the_statuses(status, expected):
    """Each status is exactly one of queuing, running and finished."""
    rollout = Rollout(rollout_id="r", input=None, start_time=0.0, status=status)
    found = {"q": is_queuing(rollout), "r": is_running(rollout), "f": is_finished(rollout)}
    assert [name for name, holds in found.items() if holds] == [expected]
