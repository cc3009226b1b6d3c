"""Deliveries are counted, and waited for."""

from agentlightning.tracer.delivery import Delivery


def test_counts_and_waiters():
    """A waiter is woken when the last pending span is settled, one way or the other."""
    delivery = Delivery("ro-1", "at-1")
    assert delivery.drained().done()
    for _ in range(3):
        delivery.announce()
    waiting, cancelled = delivery.drained(), delivery.drained()
    cancelled.cancel()
    delivery.settle(sent=2)
    assert not waiting.done()
    delivery.settle(dropped=1)
    assert waiting.done()
    assert (delivery.sent, delivery.dropped, delivery.pending) == (2, 1, 0)
