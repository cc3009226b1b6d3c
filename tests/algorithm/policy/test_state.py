"""How far a run is, and back from a checkpoint."""

import json
import math

from agentlightning.algorithm.policy.result import Evaluation
from agentlightning.algorithm.policy.state import LoopState


def evaluation(step, reward):
    return Evaluation(step=step, reward=reward, tasks=4)


def test_the_state_survives_a_checkpoint():
    """Through JSON, step, version and evaluations come back."""
    state = LoopState(step=3, version=2, evaluations=[evaluation(0, 0.5), evaluation(3, 0.75)])
    assert LoopState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_the_best_is_the_latest_of_equals():
    """Later training that did no harm is preferred; a state without evaluations has no best."""
    assert LoopState().best is None
    state = LoopState(evaluations=[evaluation(0, 0.5), evaluation(2, 0.75), evaluation(4, 0.75)])
    state.evaluations.append(evaluation(6, 0.25))
    assert state.best == evaluation(4, 0.75)


def test_what_is_no_number_is_not_the_best():
    """Nothing is larger than NaN, so the first evaluation would stay the best for ever."""
    state = LoopState(evaluations=[evaluation(0, math.nan), evaluation(2, -0.75)])
    assert state.best == evaluation(2, -0.75)
    assert LoopState(evaluations=[evaluation(0, math.nan)]).best is None
