"""What every test shares: property tests have no clock, since a loaded machine is no failure, and try
the same examples in every run unless `EXPLORE=1` asks for new ones; and a test that turns logging
off for all others fails itself."""

import logging
import os
import signal
import threading
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "agl",
    deadline=None,
    derandomize="EXPLORE" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("agl")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    # So it is where a shell has put the run into the background, and so it would be for the
    # programs that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logging_stays_on() -> Iterator[None]:
    """Make sure that no test leaves logging disabled, or hides the package's from `caplog`."""
    yield
    assert logging.root.manager.disable == logging.NOTSET
    assert logging.getLogger("agentlightning").propagate


@pytest.fixture
def one_thread() -> Generator[None]:
    """Keep torch to one thread; its pool is slower than none on models of this size."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
