"""Signals during a guarded block, raised in this very process."""

import signal
import threading
import time

import pytest

from agentlightning.execution.interrupt import InterruptGuard


def guard(notes, patience_seconds=60.0):
    return InterruptGuard(
        on_first=lambda: notes.append("first"),
        on_second=lambda: notes.append("second"),
        patience_seconds=patience_seconds,
    )


def test_the_first_signal_asks_and_the_second_raises():
    """Once calls `on_first`; twice calls `on_second` and raises."""
    notes = []
    with guard(notes) as guarded:
        assert not guarded.interrupted
        signal.raise_signal(signal.SIGINT)
        assert (notes, guarded.interrupted, guarded.immediate) == (["first"], True, False)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert guarded.immediate
    assert notes == ["first", "second"]
    with pytest.raises(KeyboardInterrupt):
        guarded.raise_if_interrupted()


def test_termination_exits_with_its_code():
    """SIGTERM is answered like SIGINT and ends in the exit code of a terminated program."""
    with guard([]) as guarded:
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        guarded.raise_if_interrupted()
    assert caught.value.code == 143


def test_handlers_are_put_back():
    """After the block signals do what they did before."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with guard([]):
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_handlers_are_left_alone():
    """A program that handles SIGINT itself keeps its handler."""
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("mine"))
    try:
        with guard([]) as guarded:
            signal.raise_signal(signal.SIGINT)
        assert (seen, guarded.interrupted) == (["mine"], False)
        guarded.raise_if_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_not_guarded():
    """Outside the main thread the guard does nothing and breaks nothing."""
    raised = []

    def work():
        with guard([]) as guarded:
            raised.append(guarded.interrupted)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert raised == [False]


def test_an_impatient_block_is_broken_off():
    """A block that goes on after the signal is interrupted when patience runs out."""
    notes = []
    guarded = guard(notes, patience_seconds=0.05)
    with guarded, pytest.raises(KeyboardInterrupt), guarded.impatient():
        signal.raise_signal(signal.SIGINT)
        threading.Event().wait()
        notes.append("not reached")
    assert notes == ["first"]
    assert not guarded.immediate


def test_patience_concerns_impatient_blocks_only():
    """What follows such a block may take its time."""
    with guard([], patience_seconds=0.05) as guarded:
        with guarded.impatient():
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.2)
    assert guarded.interrupted
