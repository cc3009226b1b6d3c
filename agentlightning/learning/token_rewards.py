"""Where on the tokens of a row rewards are put: the rollout's at the end, a call's at its own.

Pure numpy. What a row knows nothing of (other rows of the rollout, agents that are not trained)
reaches it by the order of the calls alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from agentlightning.adapter.token_row import TokenRow
from agentlightning.learning.credit import ScoredRollout, follows

__all__ = ["Rewards", "token_rewards"]

Rewards = NDArray[np.float64]
"""A reward for each token of a row; 0 where nothing is trained."""


def token_rewards(rollout: ScoredRollout) -> list[Rewards]:
    """Return the rewards of each row's tokens, a stream per row; 0 outside the mask.

    Each row is an episode of its own that ends with the rollout's whole reward, at its last
    trained token. It is not divided between rows: a row's part in the rollout is its tokens'
    share of the loss.

    A call's reward is put at the call's last trained token. In a row that does not train the call
    it is put at the last trained token of the last call that had ended when the rewarded one
    began, since that may have led to it; a row without such a call does not get it. So the
    undiscounted sum from a token on is the same however the rollout's calls merged into rows, and
    is what `credit.returns_to_go` gives.

    Args:
        rollout: A scored rollout.
    """
    calls = rollout.calls
    number = {call.call_id: index for index, call in enumerate(calls)}
    rewarded = [index for index, call in enumerate(calls) if call.reward]
    after = follows(calls) if rewarded else np.zeros((0, 0), dtype=np.bool_)
    streams: list[Rewards] = []
    for row in rollout.rows:
        reward = np.zeros(len(row.ids))
        places = [(number.get(name, -1), last) for name, last in _last_tokens(row)]
        if places:
            reward[max(last for _, last in places)] += rollout.reward
        for index in rewarded:
            for place in _places(index, places, after):
                reward[place] += calls[index].reward
        streams.append(reward)
    return streams


def _last_tokens(row: TokenRow) -> Iterator[tuple[str, int]]:
    """Yield each trained span's call and the index of its last trained token, in order."""
    for span in row.spans:
        trained = np.flatnonzero(row.mask[span.start : span.stop]) if span.trained else []
        if len(trained):
            yield span.call_id, span.start + int(trained[-1])


def _places(
    rewarded: int, places: Sequence[tuple[int, int]], after: NDArray[np.bool_]
) -> list[int]:
    own = [last for index, last in places if index == rewarded]
    before = [last for index, last in places if index >= 0 and after[index, rewarded]]
    return own[-1:] or before[-1:]
