"""Adding up what several processes say of one attempt."""

from collections import Counter

from agentlightning.gateway.peers import GatewayPeers, add_seals
from agentlightning.gateway.seal import CallTally


def test_seals_add_up() -> None:
    """Counts and errors are sums over all processes."""
    own = CallTally(started=3, finished=2, failed=1, errors=Counter(timeout=1))
    theirs = {
        "calls": {"started": 2, "finished": 0, "failed": 1, "cancelled": 1},
        "unrecorded": 1,
        "errors": {"timeout": 1, "rate_limited": 2},
    }
    assert add_seals(own, [theirs]) == {
        "calls": {"started": 5, "finished": 2, "failed": 2, "cancelled": 1},
        "unrecorded": 1,
        "errors": {"timeout": 2, "rate_limited": 2},
    }


def test_an_unknown_share_is_said() -> None:
    """A process that did not answer makes the sum a lower bound, which the answer says."""
    assert add_seals(CallTally(), [None])["unknown_processes"] == 1
    assert "unknown_processes" not in add_seals(CallTally())


async def test_a_peer_that_is_gone_has_no_answer() -> None:
    """It is reported as None, soon, and not as zeros."""
    assert await GatewayPeers().seal(("ro", "at"), 1.0) == []
    assert await GatewayPeers(["http://127.0.0.1:1"]).seal(("ro", "at"), 1.0) == [None]
