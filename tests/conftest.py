"""What every test shares: property tests have no clock, since a loaded machine is no failure; and
a test that turns logging off for all others fails itself."""

import logging
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("agl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("agl")


@pytest.fixture(autouse=True)
def logging_stays_on() -> Iterator[None]:
    """Make sure that no test leaves logging disabled."""
    yield
    assert logging.root.manager.disable == logging.NOTSET


@pytest.fixture
def one_thread() -> Generator[None]:
    """Keep torch to one thread; its pool is slower than none on models of this size."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
